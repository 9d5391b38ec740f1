/* Single samples: sorted, filtered, a page of them at a time, drawn by the kind of prediction. */
const PAGE = 24;
const LEGENDS = {
  segments: [["truth", "annotated event"], ["hit", "predicted, right"], ["false", "predicted, wrong"], ["missed", "event taken for background"]],
  lanes: [["truth", "annotated"], ["hit", "found"], ["false", "found, but not annotated"], ["missed", "missed"]],
  masks: [["k-hit", "right"], ["k-missed", "missed"], ["k-false", "too much"]],
  answers: [["hit", "right answer"], ["false", "wrong answer"]],
  rows: [],
};

function drawClips(holder, subject, words) {
  const clips = subject.clips, runs = subject.runs;
  const state = { run: 0, text: "", group: -1, sort: "worst", wrong: false, page: 0 };
  const list = h("div", { class: "cards" });
  const told = h("span", { role: "status", "aria-live": "polite" });
  const back = h("button", { type: "button", onclick: () => turn(-1) }, "← Previous");
  const next = h("button", { type: "button", onclick: () => turn(1) }, "Next →");
  const change = (key, value) => { state[key] = value; state.page = 0; show(); };
  const limit = clips.kind === "masks" ? 50 : 100;
  const sorts = [["worst", "worst first"], clips.confident && ["sure", "most confident mistakes"], ["best", "best first"],
    runs.length > 1 && ["differ", "runs differ most"], ["order", "as annotated"], ["name", "by name"]].filter(Boolean);
  const groups = clips.groups.map((name, number) => [name, number, clips.items.filter((item) => item.g.includes(number)).length]).filter((group) => group[2]);
  const search = h("input", { type: "search", placeholder: clips.kind === "answers" ? "words or video" : "name", oninput: () => change("text", search.value.toLowerCase()) });
  const sorter = h("select", { onchange: () => change("sort", sorter.value) }, sorts.map(([value, name]) => h("option", { value }, name)));
  const grouper = h("select", { onchange: () => change("group", Number(grouper.value)) }, h("option", { value: -1 }, "all"), groups.map(([name, number, count]) => h("option", { value: number }, `${name} (${count})`)));
  const wrong = h("input", { type: "checkbox", onchange: () => change("wrong", wrong.checked) });
  const bare = h("input", { type: "checkbox", checked: true, onchange: () => list.classList.toggle("bare", !bare.checked) });
  holder.append(h("div", { class: "controls" },
    h("label", {}, "order", sorter), runPicker(runs, (run) => change("run", run)),
    groups.length ? h("label", {}, clips.groupTitle, grouper) : null, h("label", { class: "grow" }, "find", search),
    h("label", { class: "check" }, wrong, limit === 50 ? "mIoU below 50 % only" : "mistakes only"),
    clips.kind === "masks" ? h("label", { class: "check" }, bare, "masks") : null),
  legend(clips.kind), list, h("div", { class: "pager" }, back, told, next));

  function chosen() {
    const score = (item) => (item.s[state.run] === null ? (state.sort === "best" ? -1 : 101) : item.s[state.run]);
    const sure = (item) => (item.x[state.run] === null ? -1 : item.x[state.run]);
    const spread = (item) => Math.max(...item.s) - Math.min(...item.s);
    const orders = {
      worst: (one, other) => score(one) - score(other) || sure(other) - sure(one),
      best: (one, other) => score(other) - score(one),
      sure: (one, other) => sure(other) - sure(one) || score(one) - score(other),
      differ: (one, other) => spread(other) - spread(one),
      name: (one, other) => (one.id < other.id ? -1 : one.id > other.id ? 1 : 0),
    };
    const items = clips.items.filter((item) =>
      (state.group < 0 || item.g.includes(state.group)) &&
      (!state.wrong || (item.s[state.run] !== null && item.s[state.run] < limit)) &&
      (!state.text || `${item.id} ${item.q || ""}`.toLowerCase().includes(state.text)));
    return orders[state.sort] ? items.sort(orders[state.sort]) : items;
  }
  function show() {
    const items = chosen(), first = state.page * PAGE, part = items.slice(first, first + PAGE);
    list.replaceChildren(...part.map((item) => card(item, clips, runs, state.run, words)));
    if (!part.length) list.append(h("p", { class: "muted" }, "Nothing fits these filters."));
    told.textContent = part.length ? `${first + 1} to ${first + part.length} of ${items.length.toLocaleString("en")}` : "0";
    back.disabled = state.page === 0;
    next.disabled = first + PAGE >= items.length;
  }
  function turn(by) {
    state.page += by;
    show();
    holder.scrollIntoView({ block: "start" });
  }
  show();
}

function legend(kind) {
  return h("ul", { class: "legend" }, LEGENDS[kind].map(([key, name]) => h("li", {}, h("span", { class: `key ${key}` }), name)));
}

function card(item, clips, runs, run, words) {
  const drawers = { segments: segmentBody, lanes: laneBody, masks: maskBody, answers: answerBody, rows: rowBody };
  const score = item.s[run];
  const single = clips.kind === "answers";
  const pill = score === null ? "" : single ? (score === 100 ? "right" : "wrong") : `${clips.kind === "masks" ? "IoU " : clips.kind === "lanes" ? `${words.metric.replace(/^segment-level /, "")} ` : ""}${percent(score, 0)}`;
  const sure = item.x[run] === null || single ? null : h("p", { class: "foot" }, `surest mistake: ${percent(item.x[run], 0)} sure`);
  return h("article", { class: "card" },
    h("header", {}, h("h3", {}, h("bdi", {}, item.id)), h("span", { class: "pill", "data-tip": single ? false : `${words.metric} of this ${words.sample} alone` }, pill, clips.kind === "segments" && score !== null ? h("small", {}, " right") : null)),
    drawers[clips.kind](item, clips, runs, run), sure);
}

function strip(item, clips) {
  if (item.th === undefined) return null;
  return h("img", { class: "strip", src: clips.pictures[item.th], alt: `Frames of ${item.id}`, decoding: "async" });
}

function ticks(seconds) {
  return h("div", { class: "ticks", "aria-hidden": "true" }, h("span", {}, "0 s"), h("span", {}, `${seconds} s`));
}

function block(start, end, of, kind, text, told) {
  const name = `${told}, ${start} to ${end} s`;
  return h("span", { class: `blk ${kind}`, style: { left: `${(100 * start) / of}%`, width: `${(100 * (end - start)) / of}%` }, "data-tip": name }, text);
}

function lane(name, blocks, label, thin) {
  return h("div", { class: "lane" }, h("span", { "data-tip": name.length > 9 ? name : false }, h("bdi", {}, name)),
    h("div", { class: `track${thin ? " thin" : ""}`, role: "img", "aria-label": label }, blocks));
}

function segmentBody(item, clips, runs, run) {
  const background = clips.names.length - 1;
  const said = (parts) => parts.map(([start, end, label]) => `${clips.names[label]} ${start} to ${end} s`).join(", ");
  const truth = item.t.map(([start, end, label]) => block(start, end, item.n, label === background ? "none" : "truth", label === background ? "" : clips.names[label], clips.names[label]));
  const rows = order(runs, run).map((number) => lane(runs.length > 1 ? runs[number] : "predicted", item.p[number].map(([start, end, label, right, sure]) => {
    const empty = label === background;
    const kind = right ? (empty ? "none" : "hit") : empty ? "missed" : "false";
    const how = `${clips.names[label]}${right ? ", right" : ", wrong"}${sure === null ? "" : `, ${percent(sure, 0)} sure`}`;
    return block(start, end, item.n, kind, right && empty ? "" : clips.names[label], how);
  }), `predicted: ${said(item.p[number])}`));
  return h("div", { class: "with-names" }, strip(item, clips), lane("true", truth, `true: ${said(item.t)}`), rows, ticks(item.n));
}

const STATES = ["missed", "false", "hit"];
const STATE_WORDS = ["missed", "found, but not annotated", "found"];
const MODALITIES = ["heard", "seen"];

function laneBody(item, clips, runs, run) {
  const parts = item.l.map(([modality, category, truth, predicted]) => {
    const name = `${MODALITIES[modality] || modality}: ${clips.names[category]}`;
    const marks = truth.map(([start, end]) => block(start, end, item.n, "truth", "", `annotated ${name}`));
    const rows = order(runs, run).map((number) => lane(runs.length > 1 ? runs[number] : "predicted", predicted[number].map(([start, end, state, sure]) =>
      block(start, end, item.n, STATES[state], "", `${name}: ${STATE_WORDS[state]}${sure === null ? "" : `, ${percent(sure, 0)} sure`}`)),
    `${name}, predicted: ${predicted[number].map(([start, end, state]) => `${STATE_WORDS[state]} ${start} to ${end} s`).join(", ") || "nothing"}`, true));
    return [h("p", { class: "of" }, name), lane("true", marks, `${name}, true: ${truth.map(([start, end]) => `${start} to ${end} s`).join(", ") || "nothing"}`, true), rows];
  });
  return h("div", { class: "with-names" }, strip(item, clips), parts.length ? parts : h("p", { class: "foot" }, "Nothing annotated, nothing found."), ticks(item.n));
}

/* the chosen run first */
function order(runs, run) {
  return [run, ...runs.map((_, number) => number).filter((number) => number !== run)];
}

function maskBody(item, clips, runs, run) {
  return order(runs, run).map((one) => [
    runs.length > 1 ? h("p", { class: "of" }, runs[one]) : null,
    h("div", { class: "frames" }, item.f.map(([number, results], place) => {
      const shown = item.th && item.th[place] ? item.th[place] : [];
      const picture = shown[0] >= 0 ? h("img", { src: clips.pictures[shown[0]], alt: `Frame ${number} of ${item.id}`, decoding: "async" }) : null;
      const over = shown[one + 1] >= 0 ? h("img", { class: "over", src: clips.pictures[shown[one + 1]], alt: "Mask: right, missed and too much", decoding: "async" }) : null;
      const [iou, sure] = results[one];
      return h("figure", { "data-tip": sure === null ? `frame ${number}` : `frame ${number}: ${percent(sure, 0)} sure of its mask` },
        picture || over ? h("div", { class: "stack" }, picture, over) : null, h("figcaption", {}, `IoU ${percent(iou, 0)}`));
    })),
  ]);
}

function answerBody(item, clips, runs, run) {
  const rows = order(runs, run).map((one) => {
    const given = item.p[one];
    const likely = item.c[one].length ? item.c[one] : [[given, null]];
    return [runs.length > 1 ? h("p", { class: "of" }, runs[one]) : null, likely.map(([answer, sure]) => {
      const kind = answer === item.a ? "right" : answer === given ? "wrong" : "";
      return h("div", { class: `answer ${kind}` }, h("span", { "aria-label": kind || "not chosen" }, answer === item.a ? "✓" : answer === given ? "✗" : ""),
        h("span", {}, clips.names[answer]), h("span", { class: "bar", "aria-hidden": "true" }, sure === null ? null : h("i", { style: { width: `${sure}%` } })), h("span", {}, sure === null ? "" : percent(sure, 0)));
    })];
  });
  return [strip(item, clips), h("p", { class: "question" }, `${item.q}?`.replace(/\?\?$/, "?")), h("p", { class: "foot" }, `${clips.groups[item.g[0]]}; the answer is “${clips.names[item.a]}”`), rows];
}

function rowBody(item, clips, runs, run) {
  return [strip(item, clips), order(runs, run).map((one) => [
    runs.length > 1 ? h("p", { class: "of" }, runs[one]) : null,
    h("dl", { class: "facts" }, clips.names.map((name, place) => h("div", {}, h("dt", {}, name), h("dd", {}, item.v[one][place])))),
  ])];
}
