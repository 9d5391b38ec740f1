/* Tables by class that sort, and the confusion among classes. */
function runPicker(names, onPick) {
  if (names.length < 2) return null;
  const select = h("select", { onchange: () => onPick(select.selectedIndex) }, names.map((name) => h("option", {}, name)));
  return h("label", {}, "run", select);
}

function drawClasses(holder, subject) {
  const body = h("div", {});
  const show = (run) => body.replaceChildren(...classParts(subject.classes[run]));
  const picker = runPicker(subject.runs, show);
  if (picker) holder.append(h("div", { class: "controls" }, picker));
  holder.append(body);
  show(0);
}

function classParts(result) {
  const parts = [];
  if (result.histogram) parts.push(h("div", { class: "charts" }, histogram(result.histogram.title, result.histogram.counts, result.histogram.x, result.histogram.y)));
  if (result.confusion) parts.push(...confusionParts(result.confusion));
  for (const table of result.tables || []) parts.push(h("h3", {}, table.title), sortableTable(table));
  return parts;
}

const SHARES = ["recall", "precision", "F1", "accuracy", "mIoU"];

function sortableTable(table) {
  const bodyOf = h("tbody", {});
  const rows = [...table.rows];
  const heads = table.columns.map((name, column) => h("th", { scope: "col", "aria-sort": "none" },
    h("button", { type: "button", onclick: () => sortBy(column) }, SHARES.includes(name) ? `${name}, %` : name)));
  function fill() {
    bodyOf.replaceChildren(...rows.map((row) => h("tr", {}, row.map((cell, column) => {
      if (column === 0) return h("th", { scope: "row" }, cell);
      if (!SHARES.includes(table.columns[column])) return h("td", {}, cell.toLocaleString("en"));
      const bar = h("span", { class: "share", "aria-hidden": "true" }, h("i", { style: { width: `${cell || 0}%` } }));
      return h("td", {}, cell === null ? "–" : cell.toFixed(1), bar);
    }))));
  }
  function sortBy(column) {
    const now = heads[column].getAttribute("aria-sort");
    const down = now === "none" ? column > 0 : now === "ascending";
    heads.forEach((head) => head.setAttribute("aria-sort", "none"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => (row[column] === null ? -1 : row[column]);
    rows.sort((one, other) => (value(one) < value(other) ? -1 : value(one) > value(other) ? 1 : 0) * (down ? -1 : 1));
    fill();
  }
  fill();
  if (table.columns.length > 1) sortBy(1);
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": table.title },
    h("table", { class: "numbers" }, h("thead", {}, h("tr", {}, heads)), bodyOf));
}

function confusionParts({ names, counts, unit }) {
  const sums = counts.map((row) => row.reduce((one, other) => one + other, 0));
  const share = (true_, found) => (sums[true_] ? counts[true_][found] / sums[true_] : 0);
  const pairs = [];
  counts.forEach((row, true_) => row.forEach((count, found) => { if (true_ !== found && count) pairs.push([count, true_, found]); }));
  pairs.sort((one, other) => other[0] - one[0]);
  const words = ([count, true_, found]) => `${names[true_]} taken for ${names[found]}: ${count.toLocaleString("en")} of ${sums[true_].toLocaleString("en")} ${unit} (${(100 * share(true_, found)).toFixed(0)} %)`;
  const few = names.length <= 30;
  const cells = (row, true_) => row.map((count, found) => {
    const part = share(true_, found);
    const told = true_ === found ? `${names[true_]}: ${count} of ${sums[true_]} ${unit} right (${(100 * part).toFixed(0)} %)` : words([count, true_, found]);
    const fill = part ? { background: `color-mix(in srgb, var(--blue) ${Math.round(12 + 88 * part)}%, var(--faint))` } : {};
    return h("td", { class: `${true_ === found ? "right" : ""}${part > 0.55 ? " dense" : ""}`, style: fill, "data-tip": count ? told : false }, few && count ? String(count) : "");
  });
  const matrix = h("table", { class: "confusion" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "true ↓  predicted →"), names.map((name) => h("th", { scope: "col" }, h("span", {}, name))))),
    h("tbody", {}, counts.map((row, true_) => h("tr", {}, h("th", { scope: "row" }, names[true_]), cells(row, true_)))));
  return [
    h("h3", {}, "What is taken for what"),
    pairs.length ? h("ul", { class: "plain" }, pairs.slice(0, 8).map((pair) => h("li", {}, words(pair)))) : h("p", { class: "muted" }, "Nothing is taken for anything else."),
    h("details", { open: matchMedia("(min-width: 40rem)").matches }, h("summary", {}, `Confusion matrix of ${names.length} classes`),
      h("p", { class: "muted" }, `A row is a true class, darker where more of it went; framed cells are right. Counts are ${unit}.`),
      h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusion matrix" }, matrix)),
  ];
}
