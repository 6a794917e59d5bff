// Elements out of text: nothing that comes from a catalog is ever read as HTML.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(attribute, "");
    else if (value !== false && value !== undefined && value !== null) made.setAttribute(attribute, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

// columns: [{name, number}], rows: lists of texts or elements; the first cell names its row
export function table(caption, columns, rows, empty) {
  if (!rows.length) return element("p", { class: "empty" }, empty);
  const kind = (place) => (columns[place].number ? "number" : undefined);
  const head = columns.map((column, place) => element("th", { scope: "col", class: kind(place) }, column.name));
  const body = rows.map((cells) =>
    element("tr", {}, cells.map((cell, place) => (place ? element("td", { class: kind(place) }, cell) : element("th", { scope: "row" }, cell)))));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element("table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, head)), element("tbody", {}, body)));
}

export function facts(pairs) {
  const told = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return element("dl", {}, told.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]).flat());
}

export function share(value, name) {
  return [element("meter", { min: 0, max: 1, value, "aria-label": name }), value.toFixed(2)];
}

export const link = (page, id, text) => element("a", { href: `#/${page}/${encodeURIComponent(id)}` }, text || id);
export const heading = (text) => element("h1", { tabindex: "-1" }, text);
export const count = (value) => value.toLocaleString("en");
export const several = (value, name) => `${count(value)} ${name}${value === 1 ? "" : "s"}`;
export const time = (ms) => (ms ? new Date(ms).toISOString().slice(0, 16).replace("T", " ") + " UTC" : "");
