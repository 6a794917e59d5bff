import { code, definitionList, element, formatNumber, heading, plural, spaced, time } from "./elements.js";
import { getJson } from "./service.js";

export async function models() {
  const { in_force: inForce, published } = await getJson("/v1/models");
  const table = `${formatNumber(inForce.items)} items, ${formatNumber(inForce.items_on_sale)} on sale, ${inForce.item_table_mib} MiB`;
  return [
    heading("Models"),
    element("h2", {}, "In use by this service"),
    definitionList([["ranker", inForce.ranker], ["vocabulary", inForce.vocabulary], ["item table", table]]),
    element("h2", {}, "Published"),
    element("div", { class: "columns" }, published.map(publishedModel)),
  ];
}

function publishedModel(model) {
  const others = model.other_versions.map((version) => element("li", {}, code(version)));
  return element("section", {},
    element("h3", {}, model.kind),
    model.error ? element("p", { class: "alert", role: "alert" }, model.error) : definitionList([["version", code(model.version)], ...facts(model.facts)]),
    others.length ? element("details", {}, element("summary", {}, plural(others.length, "other version")), element("ul", {}, others)) : "");
}

const facts = (values) => Object.entries(values).map(([name, value]) =>
  (name.endsWith("_ms") ? [spaced(name.slice(0, -3)), time(value)] : [spaced(name), fact(value)]));

function fact(value) {
  if (Array.isArray(value)) return value.map((part) => element("div", {}, fact(part)));
  if (typeof value === "object" && value !== null) return definitionList(facts(value));
  return typeof value === "number" ? formatNumber(Number(value.toPrecision(4))) : String(value);
}
