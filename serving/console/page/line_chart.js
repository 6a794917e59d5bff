// Lines over time, with a legend that gives each line's latest and highest value in words.

import { element, formatMinute, formatNumber, svg } from "./elements.js";

const COLORS = 6; // in the style sheet; each has a dash pattern of its own
const LEAST_SPAN_MS = 10 * 60 * 1000;

export const LINEAR = {
  ticks: (highest) => [0, roundUp(highest) / 2, roundUp(highest)],
  share: (value, highest) => value / roundUp(highest),
  format: (value) => formatNumber(Number(value.toPrecision(3))),
};

const SECONDS_RANGE = [0.01, 3600];
export const LOG_SECONDS = {
  ticks: () => [0.01, 1, 60, 3600],
  share: (value) => {
    const [low, high] = SECONDS_RANGE.map(Math.log);
    return (Math.log(Math.max(value, SECONDS_RANGE[0])) - low) / (high - low);
  },
  format: (value) => {
    if (value >= 3600) return `${value / 3600} h`;
    if (value >= 60) return `${value / 60} min`;
    return value >= 1 ? `${value} s` : `${value * 1000} ms`;
  },
};

// series: [{name, values}] with a value or null for each of the times.
export function lineChart({ title, hint, timesMs, series, scale = LINEAR, placeholder }) {
  const shown = series.filter((line) => line.values.some((value) => value !== null));
  const caption = element("figcaption", {}, element("strong", {}, title), element("span", { class: "hint" }, ` ${hint}`));
  if (!shown.length) return element("figure", { class: "chart" }, caption, element("p", { class: "empty" }, placeholder));
  const lines = shown.map((line, index) => ({ ...line, ...summarize(line.values), className: `line color-${index % COLORS}` }));
  const highest = Math.max(...lines.map((line) => line.highest));
  const labels = lines.map((line) => `${line.name}: latest ${format(scale, line.latest)}, highest ${format(scale, line.highest)}`);
  return element("figure", { class: "chart" }, caption,
    element("div", { class: "plot" },
      yAxis(scale, highest),
      svg("svg", { class: "lines", role: "img", "aria-label": `${title}. ${labels.join("; ")}.` },
        scale.ticks(highest).map((tick) => gridLine(scale.share(tick, highest))),
        svg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", width: "100%", height: "100%" },
          lines.flatMap((line) => paths(line, timesMs, (value) => scale.share(value, highest))))),
      timeAxis(timesMs)),
    element("ul", { class: "legend" }, lines.map((line) => legendEntry(line, scale))));
}

const summarize = (values) => ({ latest: values.at(-1), highest: Math.max(...values.filter((value) => value !== null)) });
const format = (scale, value) => (value === null ? "–" : scale.format(value));

function yAxis(scale, highest) {
  const labels = scale.ticks(highest).map((tick) => svg("text", { x: "100%", y: percent(1 - scale.share(tick, highest)) }, scale.format(tick)));
  return svg("svg", { class: "axis", "aria-hidden": "true" }, labels);
}

const gridLine = (share) => svg("line", { class: "grid", x1: 0, x2: "100%", y1: percent(1 - share), y2: percent(1 - share) });

function timeAxis(timesMs) {
  const [from, to] = bounds(timesMs);
  return element("div", { class: "times", "aria-hidden": "true" }, [from, (from + to) / 2, to].map((ms) => element("span", {}, formatMinute(ms))));
}

// Below the least span, the first samples would fill the chart as if they covered the hour.
function bounds(timesMs) {
  const to = timesMs.at(-1);
  return [Math.min(timesMs[0], to - LEAST_SPAN_MS), to];
}

// A missing value interrupts the line. A value between two missing ones is a dot: a line of no length with round ends.
function paths({ values, className }, timesMs, share) {
  const [from, to] = bounds(timesMs);
  const point = (index) => `${((1000 * (timesMs[index] - from)) / (to - from)).toFixed(1)} ${(100 * (1 - share(values[index]))).toFixed(2)}`;
  const isMissing = (index) => (values[index] ?? null) === null;
  let line = "", dots = "";
  values.forEach((_, index) => {
    if (isMissing(index)) return;
    if (!isMissing(index - 1)) line += `L${point(index)}`;
    else if (!isMissing(index + 1)) line += `M${point(index)}`;
    else dots += `M${point(index)}h.01`;
  });
  return [svg("path", { class: className, d: line }), svg("path", { class: `${className} dots`, d: dots })];
}

const legendEntry = (line, scale) => element("li", {},
  svg("svg", { class: "swatch", "aria-hidden": "true" }, svg("line", { class: line.className, x1: 1, x2: 27, y1: 6, y2: 6 })),
  `${line.name} `, element("b", {}, format(scale, line.latest)),
  line.highest === line.latest ? null : element("span", { class: "hint" }, ` highest ${format(scale, line.highest)}`));

const percent = (share) => `${(100 * share).toFixed(2)}%`;

// 2, 4, 6 or 10 times a power of ten, so that half of it is as round
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return power * [2, 4, 6, 10, 20].find((factor) => factor * power >= value);
}
