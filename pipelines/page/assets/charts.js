"use strict";
/* Elements, the tooltip, and charts as SVG of the width that they have. Text comes from runs: it is never markup. */
const SVG = "http://www.w3.org/2000/svg";

function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "style") Object.assign(element.style, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function s(tag, attributes, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

function percent(value, digits) {
  return value === null || value === undefined ? "–" : `${value.toFixed(digits === undefined ? 1 : digits)} %`;
}

const tip = document.getElementById("tip");

function showTip(text, x, y) {
  if (tip.textContent !== text) tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, x + 12), document.documentElement.clientWidth - box.width - 8);
  const above = y - box.height - 12;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 4 ? above : y + 16}px`;
}

function hideTip() {
  tip.hidden = true;
}

/* whatever has data-tip tells it under the pointer and under a finger */
document.addEventListener("pointerover", (event) => {
  const told = event.target.closest && event.target.closest("[data-tip]");
  if (told) showTip(told.dataset.tip, event.clientX, event.clientY);
  else if (!event.target.closest || !event.target.closest("svg")) hideTip();
});
document.addEventListener("scroll", hideTip, { passive: true });

function niceTicks(low, high, most) {
  if (!(high > low)) { const pad = Math.abs(low) * 0.1 || 1; low -= pad; high += pad; }
  const rough = (high - low) / most;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= rough) * power;
  const ticks = [];
  for (let tick = Math.floor(low / step) * step; tick < high + step * 0.999; tick += step) ticks.push(Number(tick.toPrecision(12)));
  return ticks;
}

const DASHES = ["", "7 4", "2 3", "9 3 2 3"];

function seriesStyle(number) {
  return { stroke: `var(--c${number % 7})`, "stroke-dasharray": DASHES[Math.floor(number / 7) % 4 || number % 4] };
}

function legendOf(series) {
  if (series.length < 2) return null;
  return h("ul", { class: "legend" }, series.map((one, number) => {
    const key = s("svg", { width: 26, height: 8, "aria-hidden": "true", style: "flex:none;width:26px" });
    key.append(s("line", { x1: 0, x2: 26, y1: 4, y2: 4, "stroke-width": 2.5, ...seriesStyle(number) }));
    return h("li", {}, key, one.name);
  }));
}

/* one line a series over epochs from 1; best is the epoch that gets a dot, 0 for none */
function lineChart(title, series, unit) {
  const figure = h("figure", { class: "chartbox" }, h("figcaption", {}, title));
  const holder = h("div", {});
  figure.append(holder);
  const epochs = Math.max(...series.map((one) => one.values.length));
  const known = series.flatMap((one) => one.values).filter((value) => value !== null && Number.isFinite(value));
  if (!known.length) return null;
  const ticks = niceTicks(Math.min(...known), Math.max(...known), 4);
  const [bottom, top] = [ticks[0], ticks[ticks.length - 1]];
  const height = 230, left = 44, right = 12, above = 8, below = 34;
  let at = 0;

  function tell(epoch) {
    const lines = series.map((one) => {
      const value = one.values[epoch - 1];
      const chosen = one.best === epoch ? " (chosen)" : "";
      const name = series.length > 1 ? `${one.name}: ` : "";
      return value === null || value === undefined ? null : `${name}${value.toPrecision(4)}${unit}${chosen}`;
    });
    return [`epoch ${epoch}`, ...lines.filter(Boolean)].join("\n");
  }

  function draw(width) {
    const x = (epoch) => left + (epochs > 1 ? ((epoch - 1) / (epochs - 1)) * (width - left - right) : (width - left - right) / 2);
    const y = (value) => above + (1 - (value - bottom) / (top - bottom)) * (height - above - below);
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", tabindex: 0,
      "aria-label": `${title}: ${series.map((one) => `${one.name} ends at ${last(one.values)}`).join(", ")}. Arrow keys go through the epochs.` });
    for (const tick of ticks) {
      svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      svg.append(s("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    const step = Math.max(1, Math.ceil(epochs / Math.max(2, Math.floor((width - left) / 46))));
    for (let epoch = 1; epoch <= epochs; epoch += step) {
      svg.append(s("text", { x: x(epoch), y: height - below + 17, "text-anchor": "middle" }, String(epoch)));
    }
    svg.append(s("text", { x: width - right, y: height - 2, "text-anchor": "end" }, "epoch"));
    series.forEach((one, number) => {
      const points = one.values.map((value, place) => [place + 1, value]).filter(([, value]) => value !== null && Number.isFinite(value));
      svg.append(s("polyline", { class: "line", points: points.map(([epoch, value]) => `${x(epoch)},${y(value)}`).join(" "), ...seriesStyle(number) }));
      for (const [epoch, value] of points) {
        if (epoch === one.best || points.length === 1) {
          svg.append(s("circle", { cx: x(epoch), cy: y(value), r: 4.5, fill: `var(--c${number % 7})`, stroke: "var(--paper)", "stroke-width": 1.5 }));
        }
      }
    });
    const cross = s("line", { class: "cross", y1: above, y2: height - below, visibility: "hidden" });
    svg.append(cross);
    const point = (epoch, clientX, clientY) => {
      at = Math.min(Math.max(epoch, 1), epochs);
      cross.setAttribute("x1", x(at)); cross.setAttribute("x2", x(at)); cross.setAttribute("visibility", "visible");
      const box = svg.getBoundingClientRect();
      showTip(tell(at), clientX === undefined ? box.left + x(at) : clientX, clientY === undefined ? box.top + 40 : clientY);
    };
    const leave = () => { cross.setAttribute("visibility", "hidden"); hideTip(); };
    svg.addEventListener("pointermove", (event) => {
      const across = (event.clientX - svg.getBoundingClientRect().left - left) / Math.max(1, width - left - right);
      point(Math.round(across * (epochs - 1)) + 1, event.clientX, event.clientY);
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (by) { event.preventDefault(); point(at + by); }
    });
    holder.replaceChildren(svg);
  }
  onWidth(holder, draw);
  return figure;
}

function last(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known[known.length - 1].toPrecision(4) : "nothing";
}

/* counts of equal bins between 0 and 100 */
function histogram(title, counts, xName, yName) {
  const holder = h("div", {});
  const figure = h("figure", { class: "chartbox" }, h("figcaption", {}, title), holder);
  const ticks = niceTicks(0, Math.max(1, ...counts), 4).filter((tick) => Number.isInteger(tick));
  const top = ticks[ticks.length - 1], height = 200, left = 44, right = 12, above = 8, below = 36;
  const bin = 100 / counts.length;
  onWidth(holder, (width) => {
    const across = (width - left - right) / counts.length;
    const y = (value) => above + (1 - value / top) * (height - above - below);
    const svg = s("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": `${title}: ${counts.map((count, place) => `${place * bin} to ${(place + 1) * bin}: ${count}`).join(", ")}` });
    for (const tick of ticks) {
      svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      svg.append(s("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
    }
    counts.forEach((count, place) => {
      const words = `${place * bin} to ${(place + 1) * bin} %: ${plural(count, yName.replace(/s$/, ""))}`;
      svg.append(s("rect", { class: "bar", x: left + place * across + 1.5, width: Math.max(1, across - 3), y: y(count), height: y(0) - y(count), "data-tip": words }));
    });
    for (let edge = 0; edge <= 100; edge += 20) svg.append(s("text", { x: left + (edge / 100) * (width - left - right), y: height - below + 16, "text-anchor": "middle" }, String(edge)));
    svg.append(s("text", { x: width - right, y: height - 3, "text-anchor": "end" }, xName));
    svg.append(s("text", { x: 0, y: height - 3 }, yName));
    holder.replaceChildren(svg);
  });
  return figure;
}

/* draws at the width that there is, and again when that changes */
function onWidth(holder, draw) {
  let drawn = 0;
  new ResizeObserver((entries) => {
    const width = Math.floor(entries[0].contentRect.width);
    if (width > 0 && width !== drawn) { drawn = width; draw(width); }
  }).observe(holder);
}
