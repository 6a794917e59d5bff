// Finds what a reader of a page would miss or stumble over. Returns a line for each problem.
() => {
  const ROUNDING_PX = 1.5;
  const LONGEST_WORD = 20; // a longer one may have to be broken
  const page = document.documentElement;
  const problems = [];

  if (page.scrollWidth > page.clientWidth) {
    problems.push(`the page is ${page.scrollWidth} px wide in a window of ${page.clientWidth} px`);
  }
  for (const element of document.body.querySelectorAll("*")) if (isShown(element)) checkElement(element);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    if (text.data.trim() && isShown(text.parentElement)) checkText(text);
  }
  return problems;

  function checkElement(element) {
    const { overflowX, overflowY } = getComputedStyle(element);
    const isSvg = element instanceof SVGElement; // has no scroll size
    const isWide = !isSvg && element.scrollWidth > element.clientWidth + ROUNDING_PX;
    const isHigh = !isSvg && element.scrollHeight > element.clientHeight + ROUNDING_PX;
    if (overflowX !== "visible" && isWide) report("wider than its frame", element);
    if (["hidden", "clip"].includes(overflowY) && isHigh) report("higher than its frame", element);
    if (element.localName === "time" && countLines(element) > 1) report("time on several lines", element);
  }

  function checkText(text) {
    const box = rangeOf(text).getBoundingClientRect();
    const isCut = (frame) => box.left < frame.left - ROUNDING_PX || box.right > frame.right + ROUNDING_PX;
    if (framesOf(text).some(isCut)) report("text cut off", text.parentElement);
    for (const { 0: word, index } of text.data.matchAll(/[^\s\-\/]+/g)) {
      const isBroken = word.length <= LONGEST_WORD && countLines(rangeOf(text, index, index + word.length)) > 1;
      if (isBroken) report(`"${word}" broken in the middle`, text.parentElement);
    }
  }

  // The window, and each ancestor that hides what reaches beyond it.
  function framesOf(text) {
    const frames = [{ left: 0, right: page.clientWidth }];
    for (let ancestor = text.parentElement; ancestor; ancestor = ancestor.parentElement) {
      if (getComputedStyle(ancestor).overflowX !== "visible") frames.push(ancestor.getBoundingClientRect());
    }
    return frames;
  }

  function isShown(element) {
    return element.checkVisibility() && !element.closest(".visually-hidden, .skip, input, textarea");
  }

  function rangeOf(text, start = 0, end = text.length) {
    const range = document.createRange();
    range.setStart(text, start);
    range.setEnd(text, end);
    return range;
  }

  function countLines(part) {
    return new Set([...part.getClientRects()].filter((box) => box.width).map((box) => Math.round(box.top))).size;
  }

  function report(problem, element) {
    problems.push(`${problem}: <${element.localName}> ${element.textContent.trim().replace(/\s+/g, " ").slice(0, 60)}`);
  }
}
