import { count, element, facts, heading, link, several, share, table, time } from "./elements.js";
import { begin, search } from "./search.js";
import { ask } from "./service.js";

export async function item(id) {
  if (!id) return [heading("Item"), item.form(), ...(await begin("item"))];
  let card;
  try {
    card = await ask(`/v1/items/${encodeURIComponent(id)}`);
  } catch (error) {
    if (error.status !== 404) throw error;
    return alike(id);
  }
  return [
    heading(card.title || card.item_id),
    element("p", { class: "of" }, `Item ${card.item_id}, ${STATUSES[card.status]}${card.served ? "" : "; not in the ranking service's table"}.`),
    item.form(),
    element("div", { class: "columns" }, element("section", {}, element("h2", {}, "What its listing says"), listing(card)), element("section", {}, element("h2", {}, "What is known of it"), known(card))),
    element("h2", {}, "Claims"), claims(card),
    element("h2", {}, "Neighbors"), neighbors(card),
    element("h2", {}, "What the language model was asked"), calls(card),
  ];
}
item.form = () => search("item", "Item, or words");

// Where no item has that id: words, perhaps.
async function alike(words) {
  const found = await ask(`/v1/search?${new URLSearchParams({ words })}`);
  return [
    heading(`Items like “${words}”`),
    element("p", { class: "note" }, `No item has the id “${words}”.`),
    item.form(),
    table("On sale, closest to these words in meaning", [{ name: "item" }, { name: "cosine", number: true }],
      found.map((of) => [link("item", of.item_id, of.title || of.item_id), of.cosine.toFixed(3)]), "Nothing is on sale."),
  ];
}

const STATUSES = { text: "served by its text: nobody has reasoned about it yet", reasoned: "served with its knowledge", delisted: "no longer on sale" };

const listing = (card) => facts([
  ["price", card.price === null ? "" : String(card.price)], ["seller", card.seller_id], ...Object.entries(card.attributes),
  ["listed", time(card.listed_ms)], ["as of", time(card.event_time_ms)],
]);

const known = (card) => facts([
  ["type", card.product_type], ["profile", card.profile], ["goes with", card.complements.join(", ")], ["instead of", card.substitutes.join(", ")],
  ["semantic ID", card.semantic_id || "no codebook of this space is published"], ["vocabulary", card.vocabulary], ["space", card.space_id && code(card.space_id)],
  ["content", card.content && code(card.content)], ["fingerprint", card.fingerprint && code(card.fingerprint)],
]);

const code = (text) => element("code", {}, text);

const claims = (card) => table("Out of the closed vocabulary, and on whose word",
  [{ name: "claim" }, { name: "confidence" }, { name: "evidence" }, { name: "who says so" }],
  card.claims.map(({ claim, definition }) => [
    [`${claim.group}: ${claim.value}`.replaceAll("_", " "), element("span", { class: "hint" }, definition && ` ${definition}`)],
    share(claim.confidence, "confidence"), claim.evidence ? element("mark", {}, claim.evidence) : "the whole text", claim.reasoner,
  ]), "Nothing is claimed yet: the item is served by its text.");

const neighbors = (card) => table("On sale, closest by meaning", [{ name: "item" }, { name: "cosine", number: true }, { name: "claims shared", number: true }],
  card.neighbors.map((of) => [link("item", of.item_id, of.title || of.item_id), of.cosine.toFixed(3), count(of.claims_shared)]), "It is in no table.");

function calls(card) {
  if (card.calls === null) return element("p", { class: "empty" }, "No ledger can be read here; where the reasoning workers run, reaseq knowledge show tells.");
  if (!card.calls.length) return element("p", { class: "empty" }, "Nothing: it cost nothing.");
  const sum = (name) => card.calls.reduce((total, call) => total + call[name], 0);
  return element("div", {},
    element("p", {}, `${several(card.calls.length, "call")}, ${count(sum("tokens_in"))} tokens in, ${count(sum("tokens_out"))} out, ${sum("seconds").toFixed(1)} s.`),
    table("Calls", [{ name: "agent" }, { name: "reasoning" }, { name: "tokens in", number: true }, { name: "cached", number: true }, { name: "out", number: true }, { name: "seconds", number: true }, { name: "model" }, { name: "answered" }],
      card.calls.map((of) => [of.agent, of.rejected ? element("span", { class: "bad" }, `rejected: ${of.rejected}`) : of.reasoning, count(of.tokens_in), count(of.tokens_cached), count(of.tokens_out), of.seconds.toFixed(2), of.model, time(of.answered_ms)]), ""));
}
