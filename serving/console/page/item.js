import { claimGroups } from "./claims.js";
import { code, definitionList, element, formatNumber, heading, itemLink, plural, table, time } from "./elements.js";
import { popularItems, searchForm } from "./search.js";
import { getJson } from "./service.js";

const STATUSES = {
  text: "served from its text, not reasoned yet",
  reasoned: "served with its knowledge",
  delisted: "no longer on sale",
};

export async function item(id) {
  if (!id) return [heading("Item"), item.form(), ...(await popularItems())];
  let card;
  try {
    card = await getJson(`/v1/items/${encodeURIComponent(id)}`);
  } catch (error) {
    if (error.status !== 404) throw error;
    return similarItems(id);
  }
  return [
    heading(card.title || card.item_id),
    element("p", { class: "subtitle" }, `Item ${card.item_id}, ${STATUSES[card.status]}${card.served ? "" : "; not in the ranking service's table"}.`),
    item.form(),
    element("div", { class: "columns" },
      element("section", {}, element("h2", {}, "Listing"), listing(card)),
      element("section", {}, element("h2", {}, "Knowledge"), knowledge(card))),
    element("h2", {}, "Claims"), ...claimGroups(card.claims),
    element("h2", {}, "Neighbors"), neighbors(card),
    element("h2", {}, "Language-model calls"), calls(card),
  ];
}
item.form = () => searchForm("item", "Item ID or words");

// If no item has the id, it may have been words to search for.
async function similarItems(words) {
  const matches = await getJson(`/v1/search?${new URLSearchParams({ words })}`);
  return [
    heading(`Items like “${words}”`),
    element("p", { class: "note" }, `No item has the id “${words}”.`),
    item.form(),
    table("On sale, most similar to these words", [{ name: "item" }, { name: "cosine", kind: "number" }],
      matches.map((match) => [itemLink(match), match.cosine.toFixed(3)]), "Nothing is on sale."),
  ];
}

const listing = (card) => definitionList([
  ["price", card.price === null ? "" : String(card.price)], ["seller", card.seller_id], ...Object.entries(card.attributes),
  ["listed", time(card.listed_ms)], ["updated", time(card.event_time_ms)],
]);

const knowledge = (card) => definitionList([
  ["type", card.product_type], ["profile", card.profile],
  ["complements", card.complements.join(", ")], ["substitutes", card.substitutes.join(", ")],
  ["semantic ID", card.semantic_id || "no codebook is published for this space"], ["vocabulary", card.vocabulary],
  ["space", card.space_id && code(card.space_id)], ["content", card.content && code(card.content)],
  ["fingerprint", card.fingerprint && code(card.fingerprint)],
]);

const neighbors = (card) => table("On sale, most similar in meaning",
  [{ name: "item" }, { name: "cosine", kind: "number" }, { name: "shared claims", kind: "number" }],
  card.neighbors.map((neighbor) => [itemLink(neighbor), neighbor.cosine.toFixed(3), formatNumber(neighbor.shared_claims)]),
  "The item is not in the item table.");

function calls(card) {
  if (card.calls === null) {
    return element("p", { class: "empty" }, "This machine has no readable ledger. Run reaseq knowledge show where the reasoning workers run.");
  }
  if (!card.calls.length) return element("p", { class: "empty" }, "No calls, so no cost.");
  const sum = (field) => card.calls.reduce((total, call) => total + call[field], 0);
  const total = `${plural(card.calls.length, "call")}, ${formatNumber(sum("tokens_in"))} tokens in, ${formatNumber(sum("tokens_out"))} out, ${sum("seconds").toFixed(1)} s.`;
  const columns = [
    { name: "agent" }, { name: "reasoning" }, { name: "tokens" }, { name: "seconds", kind: "number" }, { name: "model" }, { name: "answered" },
  ];
  const rows = card.calls.map((call) => [
    call.agent, call.rejected ? element("span", { class: "bad" }, `rejected: ${call.rejected}`) : call.reasoning,
    [`${formatNumber(call.tokens_in)} in`, `${formatNumber(call.tokens_cached)} cached`, `${formatNumber(call.tokens_out)} out`].map(
      (count) => [element("span", { class: "nowrap" }, count), " "]).flat(),
    call.seconds.toFixed(2), call.model, time(call.answered_ms),
  ]);
  return element("div", {}, element("p", {}, total), table("Calls", columns, rows, ""));
}
