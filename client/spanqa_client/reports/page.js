"use strict";
(() => {
  const ROW_HEIGHT = 58, BEYOND = 6;
  const data = JSON.parse(document.getElementById("questions-data").textContent);
  const $ = (id) => document.getElementById(id);
  const list = $("list"), rows = $("rows"), detail = $("detail"), search = $("search");
  const controls = { kind: $("kind"), change: $("change"), field: $("field"), value: $("value") };
  const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c\ufeff]/;
  const lowered = new Map();
  let found = [], selected = -1, drawn = new Map();

  function element(name, { text, kind, ...attributes } = {}) {
    const made = document.createElement(name);
    if (kind) made.className = kind;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) write(made, text);
    return made;
  }

  // Text only, never markup; what is invisible and could turn a line around is shown by its number.
  function write(into, text) {
    let plain = "";
    for (const char of text) {
      if (!CONTROL.test(char)) { plain += char; continue; }
      into.append(plain, element("span", { kind: "control", text: "U+" + char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0") }));
      plain = "";
    }
    into.append(plain);
    return into;
  }

  function swatch(kind) {
    const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg"), dot = document.createElementNS(ns, "rect");
    svg.setAttribute("viewBox", "0 0 10 10");
    svg.setAttribute("aria-hidden", "true");
    for (const [key, value] of [["width", 10], ["height", 10], ["rx", 2], ["class", "kind-" + kind]]) dot.setAttribute(key, value);
    svg.append(dot);
    return svg;
  }

  const answerOf = (said) => (!said ? "says nothing" : said[3] ? said[0] : "no answer");

  function fill(select, names, first) {
    select.replaceChildren(element("option", { text: first, value: "" }));
    names.forEach((name, number) => select.append(element("option", { text: name, value: String(number) })));
  }

  // Searching

  function lower(number) {
    if (!lowered.has(number)) lowered.set(number, data.contexts[number].toLowerCase());
    return lowered.get(number);
  }

  function holds(question, words) {
    const own = [question.q, question.id, data.titles[question.t], question.s ? question.s[0] : "", question.o ? question.o[0] : "", ...question.g.map((gold) => gold[0])];
    const text = own.join("\n").toLowerCase();
    return words.every((word) => text.includes(word) || lower(question.c).includes(word));
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { kind, change, field, value } = Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control.value]));
    const kinds = kind === "wrong" ? data.wrong : kind === "" ? null : [Number(kind)];
    found = [];
    data.questions.forEach((question, number) => {
      if (kinds && !kinds.includes(question.k)) return;
      if (change === "any" ? question.h === 0 : change !== "" && question.h !== Number(change)) return;
      if (field !== "" && value !== "" && question.v[field] !== Number(value)) return;
      if (words.length && !holds(question, words)) return;
      found.push(number);
    });
    const n = found.length;
    $("count").textContent = `${n.toLocaleString("en")} question${n === 1 ? "" : "s"}`;
    rows.style.height = n * ROW_HEIGHT + "px";
    list.scrollTop = 0;
    for (const row of drawn.values()) row.remove();
    drawn = new Map();
    select(n ? 0 : -1);
  }

  // Only the rows in sight are there.

  function draw() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - BEYOND);
    const last = Math.min(found.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + BEYOND);
    for (const [place, row] of drawn) {
      if (place >= first && place < last) continue;
      row.remove();
      drawn.delete(place);
    }
    for (let place = first; place < last; place++) if (!drawn.has(place)) drawn.set(place, rows.appendChild(rowAt(place)));
    for (const [place, row] of drawn) row.setAttribute("aria-selected", String(place === selected));
  }

  function rowAt(place) {
    const question = data.questions[found[place]];
    const row = element("div", { kind: "row", role: "option", id: "row-" + place, "aria-posinset": place + 1, "aria-setsize": found.length });
    row.style.top = place * ROW_HEIGHT + "px";
    const above = element("bdi", { text: question.q, dir: "auto" });
    const change = question.h ? data.changes[question.h] + " \u00b7 " : "";
    const below = element("span", { kind: "below", text: `${change}${data.kinds[question.k]} \u00b7 ` });
    below.append(element("bdi", { text: answerOf(question.s) }));
    row.append(swatch(question.k), above, below);
    row.addEventListener("click", () => { select(place); list.focus({ preventScroll: true }); });
    return row;
  }

  function select(place) {
    selected = place;
    if (place < 0) {
      list.removeAttribute("aria-activedescendant");
      detail.replaceChildren(element("p", { kind: "empty", text: "No question fits." }));
      draw();
      return;
    }
    const top = place * ROW_HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
    draw();
    list.setAttribute("aria-activedescendant", "row-" + place);
    show(data.questions[found[place]]);
  }

  function move(by) {
    if (found.length) select(Math.min(found.length - 1, Math.max(0, selected + by)));
  }

  // One question

  function show(question) {
    const facts = element("dl");
    const add = (name, text) => facts.append(element("dt", { text: name }), element("dd")), put = (text) => facts.lastChild.append(element("bdi", { text, dir: "auto" }));
    add("annotated");
    put([...new Set(question.g.map((gold) => gold[0]))].join(" / ") || "no answer in this passage");
    add("answer");
    put(answerOf(question.s));
    if (question.s && !question.s[3] && question.s[0]) { add("closest"); put(question.s[0]); }
    if (data.other) { add("other run"); put(`${answerOf(question.o)} (${data.kinds[question.ok]})`); }
    add("outcome");
    facts.lastChild.append(`${data.kinds[question.k]}${question.h ? ", " + data.changes[question.h] : ""}; F1 ${question.f}`);
    const numbers = question.s ? [["margin", question.s[4]], ["score", question.s[5]]].filter(([, value]) => value !== null).map(([name, value]) => `${name} ${value}`) : [];
    const below = [data.titles[question.t], question.id, ...numbers].filter(Boolean).join(" \u00b7 ");
    detail.replaceChildren(
      element("h3", { text: question.q, dir: "auto" }), facts, passage(question),
      element("p", { kind: "facts-below", text: below, dir: "auto" }),
    );
    detail.scrollTop = 0;
  }

  function passage(question) {
    const text = data.contexts[question.c], spans = [];
    for (const [, start, end] of question.g) spans.push([start, end, "gold"]);
    if (question.s && question.s[1] >= 0) spans.push([question.s[1], question.s[2], question.s[3] ? "said" : "closest"]);
    if (question.o && question.o[1] >= 0 && question.o[3]) spans.push([question.o[1], question.o[2], "other"]);
    const cuts = [...new Set([0, text.length, ...spans.flatMap(([start, end]) => [start, end])])].sort((a, b) => a - b);
    const whole = element("p", { kind: "passage", dir: "auto" });
    for (let place = 0; place + 1 < cuts.length; place++) {
      const piece = text.slice(cuts[place], cuts[place + 1]);
      const kinds = [...new Set(spans.filter(([start, end]) => start <= cuts[place] && end >= cuts[place + 1]).map((span) => span[2]))];
      if (!kinds.length) { write(whole, piece); continue; }
      const titles = { gold: "annotated", said: "answer", closest: "closest span, not given", other: "the other run's answer" };
      whole.append(element("mark", { kind: kinds.join(" "), text: piece, title: kinds.map((kind) => titles[kind]).join(", ") }));
    }
    return whole;
  }

  // Operating it

  function choose(settings) {
    search.value = "";
    for (const control of Object.values(controls)) control.value = "";
    if (settings.field !== undefined) { controls.field.value = settings.field; fillValues(); controls.value.value = settings.value; }
    else fillValues();
    if (settings.kind !== undefined) controls.kind.value = settings.kind;
    if (settings.change !== undefined) controls.change.value = settings.change;
    filter();
  }

  function fillValues() {
    const field = data.fields[controls.field.value];
    fill(controls.value, field ? field.values : [], "all");
    controls.value.disabled = !field;
  }

  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 120); });
  for (const name of ["kind", "change", "value"]) controls[name].addEventListener("change", filter);
  controls.field.addEventListener("change", () => { fillValues(); filter(); });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", (event) => { event.preventDefault(); choose({}); });
  list.addEventListener("scroll", draw, { passive: true });
  addEventListener("resize", draw);
  document.addEventListener("click", (event) => {
    const pick = event.target.closest(".pick");
    if (!pick) return;
    choose(pick.dataset);
    $("questions").scrollIntoView();
    list.focus({ preventScroll: true });
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") { choose({}); list.focus({ preventScroll: true }); return; }
    if (event.target.matches("input, select, textarea")) {
      if (event.key === "Enter" && event.target === search) { clearTimeout(waiting); filter(); list.focus(); }
      return;
    }
    const page = Math.max(1, Math.floor(list.clientHeight / ROW_HEIGHT) - 1);
    const anywhere = { j: 1, k: -1 }, inside = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key === "/") { search.focus(); search.select(); }
    else if (event.key in anywhere) { move(anywhere[event.key]); list.focus({ preventScroll: true }); $("browser").scrollIntoView({ block: "nearest" }); }
    else if (event.target === list && event.key in inside) move(inside[event.key]);
    else return;
    event.preventDefault();
  });

  fill(controls.kind, data.kinds, "all");
  controls.kind.insertBefore(element("option", { text: "all errors", value: "wrong" }), controls.kind.options[1]);
  fill(controls.change, data.changes, "all");
  if (data.changes.length) controls.change.insertBefore(element("option", { text: "all that differ", value: "any" }), controls.change.options[1]);
  else $("change-label").hidden = true;
  fill(controls.field, data.fields.map((field) => field.name), "\u2014");
  choose({ kind: "wrong" });
})();
