/* Puts everything in its place. */
function drawCurves(holder, subject) {
  const { series, score } = subject.curves;
  const losses = series.map((one) => ({ name: one.name, values: one.loss, best: one.best }));
  const scores = series.map((one) => ({ name: one.name, values: one.score, best: one.best }));
  const charts = [
    lineChart("Loss on train, mean of an epoch", losses, ""),
    scores.some((one) => one.values.some((value) => value !== null)) ? lineChart(`${score}, %`, scores, " %") : null,
  ];
  holder.append(legendOf(series) || "", h("div", { class: "charts" }, charts.filter(Boolean)),
    h("p", { class: "muted" }, "A dot marks the epoch that was kept. Losses of different heads or tasks have different terms."), numbersOf(series, score));
}

function numbersOf(series, score) {
  const epochs = Math.max(...series.map((one) => one.loss.length));
  const number = (value) => (value === null || value === undefined ? "–" : value.toPrecision(4));
  const heads = series.flatMap((one) => [`${one.name}: loss`, ...(one.score.length ? [`${one.name}: ${score}`] : [])]);
  const rows = Array.from({ length: epochs }, (_, place) => h("tr", {}, h("th", { scope: "row" }, String(place + 1)),
    series.flatMap((one) => [one.loss, ...(one.score.length ? [one.score] : [])]).map((values) => h("td", {}, number(values[place])))));
  return h("details", {}, h("summary", {}, "The numbers"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers of the curves" },
    h("table", { class: "numbers" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "epoch"), heads.map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows))));
}

function themeButton() {
  const names = ["auto", "light", "dark"];
  const told = { auto: "as the system has them", light: "light", dark: "dark" };
  const button = document.getElementById("theme");
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || "auto";
    const next = names[(names.indexOf(now) + 1) % names.length];
    document.documentElement.dataset.theme = next;
    button.textContent = next[0].toUpperCase() + next.slice(1);
    button.setAttribute("aria-label", `Colours: ${told[next]}`);
  });
}

const DATA = JSON.parse(document.getElementById("data").textContent);
themeButton();
for (const [name, draw] of [["curves", drawCurves], ["classes", drawClasses], ["clips", drawClips]]) {
  for (const holder of document.querySelectorAll(`.${name}[data-subject]`)) draw(holder, DATA[Number(holder.dataset.subject)], DATA[Number(holder.dataset.subject)].words);
}
document.documentElement.dataset.ready = "yes";
