// An item's claims, grouped by the vocabulary's questions, each with who says so.

import { shareBar } from "./bars.js";
import { element, plural, spaced } from "./elements.js";

const RECORDED = "recorded";
const SOURCES = { // by the part of a claim's reasoner before the colon
  llm: (claim) => ({ kind: "llm", name: `${claim.agent || "an"} agent`, model: claim.reasoner.slice(4), says: "answers of the agents that the critic let pass" }),
  student: (claim) => ({ kind: "student", name: "student", model: claim.reasoner.slice(8), says: "the model trained on the agents' answers" }),
  "zero-shot": () => ({ kind: "zero-shot", name: "zero-shot", model: "", says: "the encoder's similarity alone, without a language model" }),
  [RECORDED]: () => ({ kind: RECORDED, name: RECORDED, model: "", says: "answers of a language model from a file, without confidences" }),
};

export function claimGroups(claims) {
  if (!claims.length) return [element("p", { class: "empty" }, "No claims yet: the item is served from its text.")];
  const groups = Map.groupBy(claims, (claim) => claim.group);
  return [
    element("ul", { class: "sources" }, [...Map.groupBy(claims, (claim) => sourceOf(claim).kind)].map(([kind, of]) => sourceSummary(kind, of))),
    element("div", { class: "claims" }, [...groups].map(([name, of]) => claimGroup(name, of))),
  ];
}

function sourceOf(claim) {
  const source = SOURCES[claim.reasoner.split(":")[0]];
  return source ? source(claim) : { kind: "other", name: claim.reasoner, model: "", says: "a reasoner that this console does not know" };
}

function sourceSummary(kind, claims) {
  const models = [...new Set(claims.map((claim) => sourceOf(claim).model))].filter(Boolean);
  return element("li", {}, badge(kind, kind === "llm" ? "agents" : sourceOf(claims[0]).name), ` ${plural(claims.length, "claim")}: ${sourceOf(claims[0]).says}`,
    models.length ? ` (${models.join(", ")})` : "", ".");
}

// One badge if one source makes all claims of the group, otherwise one for each claim.
function claimGroup(name, claims) {
  const sources = claims.map(sourceOf);
  const isShared = sources.every((source) => source.name === sources[0].name);
  return element("section", {},
    element("div", { class: "claim" }, element("h3", {}, spaced(name)), isShared ? badge(sources[0].kind, sources[0].name) : null),
    element("ul", {}, claims.map((claim, index) => claimEntry(claim, isShared ? null : badge(sources[index].kind, sources[index].name)))));
}

const claimEntry = (claim, source) => element("li", {},
  element("div", { class: "claim" }, element("span", {}, element("strong", {}, spaced(claim.value)), " ", source), confidence(claim)),
  claim.definition ? element("div", { class: "hint" }, claim.definition) : null,
  claim.evidence ? element("div", { class: "hint" }, "Quoted: ", element("mark", {}, claim.evidence)) : null);

const confidence = (claim) => (claim.reasoner === RECORDED ? null
  : element("span", { class: "confidence" }, shareBar(claim.confidence), element("span", { class: "visually-hidden" }, "confidence "), claim.confidence.toFixed(2)));

const badge = (kind, text) => element("span", { class: `badge from-${kind}` }, text);
