// Builds elements from text. Nothing that comes from a catalog is ever parsed as HTML.

export function element(name, attributes = {}, ...children) {
  const created = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (value === true) created.setAttribute(attribute, "");
    else if (value !== false && value !== undefined && value !== null) created.setAttribute(attribute, value);
  }
  created.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return created;
}

// columns: [{name, number}]; rows: lists of texts or elements, whose first cell is the row's header
export function table(caption, columns, rows, placeholder) {
  if (!rows.length) return element("p", { class: "empty" }, placeholder);
  const cellClass = (index) => (columns[index].number ? "number" : undefined);
  const head = columns.map((column, index) => element("th", { scope: "col", class: cellClass(index) }, column.name));
  const cell = (content, index) => (index ? element("td", { class: cellClass(index) }, content) : element("th", { scope: "row" }, content));
  const body = rows.map((cells) => element("tr", {}, cells.map(cell)));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    element("table", {}, element("caption", {}, caption), element("thead", {}, element("tr", {}, head)), element("tbody", {}, body)));
}

// Leaves out pairs without a value.
export function definitionList(pairs) {
  const present = pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined);
  return element("dl", {}, present.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]).flat());
}

export function meter(value, label) {
  return [element("meter", { min: 0, max: 1, value, "aria-label": label }), value.toFixed(2)];
}

export const link = (page, id, text) => element("a", { href: `#/${page}/${encodeURIComponent(id)}` }, text || id);
export const itemLink = (item) => link("item", item.item_id, item.title);
export const heading = (text) => element("h1", { tabindex: "-1" }, text);
export const code = (text) => element("code", {}, text);
export const formatNumber = (value) => value.toLocaleString("en");
export const plural = (count, noun) => `${formatNumber(count)} ${noun}${count === 1 ? "" : "s"}`;
export const formatTime = (ms) => (ms ? new Date(ms).toISOString().slice(0, 16).replace("T", " ") + " UTC" : "");
