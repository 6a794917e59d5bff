// Bars for numbers that stand beside them as text, so they are hidden from screen readers.

import { svg } from "./elements.js";

// From 0 to 1.
export const shareBar = (share) => svg("svg", { class: "bar", "aria-hidden": "true" },
  svg("rect", { class: "bar-ground", width: "100%", height: "100%" }),
  svg("rect", { class: "bar-share", width: percent(share), height: "100%" }));

// To the right of the middle for values above 0, to the left below; `largest` fills its side.
export function signedBar(value, largest) {
  const width = largest ? (50 * Math.abs(value)) / largest : 0;
  return svg("svg", { class: "bar", "aria-hidden": "true" },
    svg("rect", { class: value < 0 ? "bar-lower" : "bar-higher", x: `${value < 0 ? 50 - width : 50}%`, width: `${width}%`, height: "100%" }),
    svg("line", { class: "bar-zero", x1: "50%", x2: "50%", y1: 0, y2: "100%" }));
}

const percent = (share) => `${100 * share}%`;
