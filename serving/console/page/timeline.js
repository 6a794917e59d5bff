// A user's observed and inferred behaviors on one time line: a picture of it, and every behavior in words.

import { shareBar } from "./bars.js";
import { element, formatDay, formatMinute, formatNumber, formatTime, itemLink, plural, scrollable, svg, time } from "./elements.js";

const BINS = 40;
const DAY_MS = 86_400_000;
const OBSERVED = 74, INFERRED = 79; // percent of the width: where the observed part ends, and where the inferred part starts

export function timeline(view) {
  return [...picture(view), behaviors(view)];
}

function picture({ history, inferred, inferred_as_of_ms: asOfMs }) {
  if (!history.length) return [];
  const from = startOfDay(history.at(-1).time_ms), to = startOfDay(history[0].time_ms) + DAY_MS;
  const bins = countByBin(history, from, to);
  const highest = Math.max(...bins.map((bin) => bin.total));
  const types = [...new Set(history.map((behavior) => behavior.type))].sort();
  const mostConfident = Math.max(...inferred.map((behavior) => behavior.confidence));
  const asOf = inferred.length ? [markAsOf(Math.min(1, Math.max(0, (asOfMs - from) / (to - from))))] : [];
  const explanation = `A bar counts the events of ${formatSpan((to - from) / BINS)}; the highest has ${formatNumber(highest)}.`
    + (inferred.length ? ` Inferred behaviors have a bar each, by confidence; the highest is ${mostConfident.toFixed(2)}.` : "");
  const label = `${plural(history.length, "behavior")} from ${formatTime(history.at(-1).time_ms)} to ${formatTime(history[0].time_ms)}; ${inferred.length} inferred`;
  return [element("figure", { class: "timeline" },
    svg("svg", { role: "img", "aria-label": `${label}.` },
      svg("line", { class: "grid", x1: 0, x2: "100%", y1: "100%", y2: "100%" }),
      bins.flatMap((bin, index) => observedBars(bin, index, highest, types)), asOf, inferredBars(inferred, mostConfident)),
    element("div", { class: "times" },
      element("span", {}, formatDay(from)), element("span", {}, to - from > DAY_MS ? formatDay(to - 1) : ""),
      element("span", { class: "inferred" }, inferred.length ? "inferred" : "")),
    element("ul", { class: "legend" },
      types.map((type) => element("li", {}, swatch(`type-${type}`), type)),
      inferred.length ? [element("li", {}, swatch("type-inferred"), "inferred"), element("li", {}, swatch("as-of", "line"), "when inferred")] : []),
    element("figcaption", { class: "hint" }, explanation))];
}

const startOfDay = (ms) => ms - (ms % DAY_MS);

function countByBin(history, from, to) {
  const bins = Array.from({ length: BINS }, () => ({ total: 0, types: {} }));
  for (const { time_ms: ms, type } of history) {
    const bin = bins[Math.min(BINS - 1, Math.floor((BINS * (ms - from)) / (to - from)))];
    bin.total += 1;
    bin.types[type] = (bin.types[type] || 0) + 1;
  }
  return bins;
}

function observedBars(bin, index, highest, types) {
  const width = OBSERVED / BINS;
  let below = 0;
  return types.filter((type) => bin.types[type]).map((type) => {
    const height = (100 * bin.types[type]) / highest;
    below += height;
    return svg("rect", { class: `type-${type}`, x: `${index * width}%`, width: `${width * 0.85}%`, y: `${100 - below}%`, height: `${height}%` });
  });
}

const markAsOf = (share) => svg("line", { class: "as-of", x1: `${share * OBSERVED}%`, x2: `${share * OBSERVED}%`, y1: 0, y2: "100%" });

function inferredBars(inferred, mostConfident) {
  const width = (100 - INFERRED) / Math.max(inferred.length, 5);
  return inferred.map(({ confidence }, index) => {
    const height = (100 * confidence) / mostConfident;
    return svg("rect", { class: "type-inferred", x: `${INFERRED + index * width}%`, width: `${width * 0.7}%`, y: `${100 - height}%`, height: `${height}%` });
  });
}

function formatSpan(ms) {
  const [size, unit] = [[DAY_MS, "day"], [3_600_000, "hour"], [60_000, "minute"]].find(([least]) => ms >= least);
  return plural(Number((ms / size).toPrecision(2)), unit);
}

const swatch = (className, shape = "rect") => svg("svg", { class: "swatch", "aria-hidden": "true" },
  shape === "rect" ? svg("rect", { class: className, x: 8, width: 12, height: 12 }) : svg("line", { class: className, x1: 14, x2: 14, y1: 0, y2: 12 }));

// Newest first; the inferred behaviors stand at the time as of which they were inferred.
function behaviors(view) {
  if (!view.history.length && !view.inferred_by) return element("p", { class: "empty" }, "Nothing yet.");
  const asOfMs = view.inferred_as_of_ms;
  const later = view.history.filter((behavior) => behavior.time_ms > asOfMs);
  const earlier = view.history.slice(later.length);
  const parts = view.inferred_by ? [...byDay(later), inferredGroup(view), ...byDay(earlier)] : byDay(view.history);
  return scrollable("Behaviors, newest first", element("table", { class: "behaviors" },
    element("caption", {}, view.inferred_by ? "Newest first; what was inferred stands at its time" : "Newest first; nothing has been inferred yet"),
    parts));
}

const byDay = (history) => [...Map.groupBy(history, (behavior) => formatDay(behavior.time_ms))].map(([day, of]) =>
  group(time(of[0].time_ms, day), of.map((behavior) => [time(behavior.time_ms, formatMinute(behavior.time_ms)), behavior.type, itemLink(behavior)])));

function inferredGroup(view) {
  const head = [time(view.inferred_as_of_ms), ` inferred by model ${view.inferred_by}`];
  if (!view.inferred.length) return group([...head, ": no behavior"], [], "inferred");
  return group(head, view.inferred.map((behavior) => [
    element("span", { class: "confidence" }, shareBar(behavior.confidence), element("span", { class: "visually-hidden" }, "confidence "), behavior.confidence.toFixed(2)),
    "inferred", itemLink(behavior),
  ]), "inferred");
}

const group = (head, rows, className) => element("tbody", { class: className },
  element("tr", {}, element("th", { scope: "rowgroup", colspan: 3 }, head)),
  rows.map((cells) => element("tr", {}, cells.map((cell) => element("td", {}, cell)))));
