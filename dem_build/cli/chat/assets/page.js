"use strict";

const token = new URLSearchParams(location.search).get("token");
const $ = (id) => document.getElementById(id);
const talk = []; // {question, replies: {model: {text}}, article}
let state = null;
let running = null; // what stops the answers that are being made

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children); // text stays text, whatever a model says
  return made;
}

async function call(path, body, signal) {
  const request = { headers: { Authorization: `Bearer ${token}` }, signal };
  if (body !== undefined) {
    request.method = "POST";
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  let reply;
  try {
    reply = await fetch(`/api/${path}`, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("`dem chat` does not answer: it has ended, or was stopped");
  }
  if (reply.ok) return reply;
  const type = reply.headers.get("Content-Type") || "";
  throw new Error(type.startsWith("application/json") ? worded(await reply.json()) : await reply.text());
}

const worded = (told) => (told.hint ? `${told.error}\n${told.hint}` : told.error);

function say(place, text) {
  place.textContent = text;
  place.hidden = !text;
}

const shown = (number) => String(+number.toPrecision(6));
const omegas = () => state.vectors.map((v) => `${v.name} ${shown(v.omega)}`).join(" · ");

/* Who answers */

function drawModels() {
  const chosen = new Set(state.asked);
  $("models").replaceChildren(
    ...state.models.map((model) => {
      const missing = model.missing.length > 0;
      const box = element("input", { type: "checkbox", value: model.name, checked: chosen.has(model.name), disabled: missing });
      const item = element("li", { className: missing ? "missing" : "" }, element("label", {}, box, element("span", {}, model.name)));
      if (missing) {
        const command = `dem build ${state.file} -- ${model.missing.join(" ")}`;
        item.append(element("small", {}, `${model.missing.join(", ")} not built: `, element("code", {}, command)));
      }
      return item;
    }),
  );
}

function showAsked() {
  $("chosen").textContent = asked().join(", ");
}

const asked = () => [...$("models").querySelectorAll("input:checked")].map((box) => box.value);

/* ω */

function drawOmega() {
  const [low, high] = state.bounds;
  $("sliders").replaceChildren(
    ...state.vectors.map((vector) => {
      const range = element("input", { type: "range", min: low, max: high, step: 0.01, ariaLabel: `ω of ${vector.name}` });
      const number = element("input", { type: "number", step: 0.01, ariaLabel: `ω of ${vector.name}, as a number` });
      range.addEventListener("input", () => (number.value = rounded(range.value)));
      range.addEventListener("change", () => move({ [vector.name]: rounded(range.value) }));
      number.addEventListener("change", () => number.value !== "" && move({ [vector.name]: +number.value }));
      const label = element("label", {}, vector.name, element("small", {}));
      return element("div", { className: "slider" }, label, range, number);
    }),
  );
  showOmega();
}

const rounded = (value) => Math.round(value * 100) / 100;

function showOmega() {
  $("live").textContent = state.live && !state.fixed ? `of ${state.live}` : "";
  say($("fixed"), state.fixed);
  $("omega").hidden = Boolean(state.fixed);
  for (const [place, slider] of [...$("sliders").children].entries()) {
    const { omega, layers } = state.vectors[place];
    const [range, number] = slider.querySelectorAll("input");
    // Whole steps: they are counted from the lower end.
    if (omega < range.min) range.min = Math.floor(omega * 100) / 100;
    if (omega > range.max) range.max = Math.ceil(omega * 100) / 100;
    range.value = omega;
    number.value = shown(omega);
    slider.querySelector("small").textContent = layers ? " the mean: each layer has its own, until you move it" : "";
  }
}

let moving = Promise.resolve(); // one after another, whatever is pressed meanwhile

function move(omega) {
  moving = moving.then(async () => {
    $("composed").textContent = "composing…";
    try {
      const told = await (await call("omega", { omega })).json();
      Object.assign(state, told);
      const done = told.seconds === null ? "composed when it is asked" : `composed in ${told.seconds.toFixed(2)} s`;
      $("composed").textContent = told.note ? `${done}; ${told.note}` : done;
    } catch (error) {
      $("composed").textContent = error.message;
    }
    showOmega();
  });
  return moving;
}

/* The recipe */

let lines = []; // of it that are changed, as they were shown

async function preview() {
  say($("dialog-trouble"), "");
  $("lines").replaceChildren();
  $("file").textContent = state.file;
  $("confirm").disabled = true;
  $("dialog").showModal();
  try {
    await moving;
    const told = await (await call("write", {})).json();
    lines = told.lines;
    drawLines(told.lines.length ? told.lines : ["@@ the recipe says so already"]);
    $("confirm").disabled = !told.lines.length;
    $(told.lines.length ? "confirm" : "cancel").focus();
  } catch (error) {
    say($("dialog-trouble"), error.message);
  }
}

function drawLines(changed) {
  const styles = { "@": "place", "-": "gone", "+": "new" };
  $("lines").replaceChildren(...changed.map((line) => element("div", { className: styles[line[0]] }, line)));
}

async function write() {
  $("confirm").disabled = true;
  try {
    const told = await (await call("write", { lines })).json();
    $("dialog").close();
    $("composed").textContent = `written into ${told.recipe}: ${told.lines.length ? "dem build makes this model" : "nothing changed"}`;
  } catch (error) {
    say($("dialog-trouble"), error.message);
  }
}

/* The conversation */

function settings() {
  const found = {};
  for (const field of $("settings").querySelectorAll("input")) if (field.value !== "") found[field.name] = +field.value;
  return found;
}

function turns(name, until) {
  const said = [];
  for (const one of talk.slice(0, until)) {
    const text = one.replies[name]?.text;
    if (text) said.push({ role: "user", content: one.question }, { role: "assistant", content: text });
  }
  return [...said, { role: "user", content: talk[until].question }];
}

async function ask(index) {
  const one = talk[index];
  const names = asked();
  running = new AbortController();
  busy(true);
  const replies = element("div", { className: "replies" });
  one.article.replaceChildren(element("p", { className: "question" }, one.question), replies);
  one.replies = {};
  await moving; // else other ω are said of an answer than were asked
  const waiting = names.map((name) => {
    const live = name === state.live && state.vectors.length;
    const who = element("p", { className: "who" }, name);
    if (live) who.append(" ", element("small", {}, omegas()));
    const [said, end] = [element("p", { className: "said" }), element("p", { className: "end" }, "waits")];
    replies.append(element("div", { className: `reply ${live ? "live" : name === "base" ? "base" : ""}` }, who, said, end));
    return { name, said, end };
  });
  one.article.scrollIntoView({ block: "end", behavior: "smooth" });
  for (const place of waiting) await answer(index, place);
  running = null;
  busy(false);
  $("question").focus();
}

async function answer(index, { name, said, end }) {
  const reply = (talk[index].replies[name] = { text: "" });
  if (running.signal.aborted) {
    end.textContent = "not asked";
    return;
  }
  end.textContent = "thinks…";
  try {
    const body = { model: name, turns: turns(name, index), settings: settings() };
    const stream = (await call("answer", body, running.signal)).body.pipeThrough(new TextDecoderStream()).getReader();
    let [rest, told] = ["", {}];
    for (let piece = await stream.read(); !piece.done; piece = await stream.read()) {
      const lines = (rest + piece.value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        told = JSON.parse(line);
        if (told.error) throw new Error(worded(told));
        if (told.text) reply.text += told.text;
      }
      said.textContent = reply.text.trimStart();
      follow();
    }
    if (told.tokens === undefined) throw new Error("the answer broke off");
    const cut = told.ended ? "" : ", cut off";
    end.textContent = `${told.tokens} tokens, ${told.seconds.toFixed(1)} s${cut}`;
  } catch (error) {
    const stopped = error.name === "AbortError";
    end.textContent = stopped ? "stopped" : error.message;
    end.classList.toggle("wrong", !stopped);
  }
}

function follow() {
  const bottom = document.documentElement.scrollHeight - innerHeight - scrollY;
  if (bottom < 160) scrollTo({ top: document.documentElement.scrollHeight });
}

function busy(is) {
  $("omega").disabled = is;
  $("send").disabled = $("new").disabled = is;
  $("stop").hidden = !is;
}

function isAnybodyAsked() {
  say($("trouble"), asked().length ? "" : "Choose who answers.");
  return asked().length > 0;
}

/* Events */

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = $("question").value.trim();
  if (!question || running || !isAnybodyAsked()) return;
  const article = element("article");
  $("talk").append(article);
  talk.push({ question, replies: {}, article });
  $("question").value = "";
  ask(talk.length - 1);
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask").requestSubmit();
  }
});
addEventListener("keydown", (event) => event.key === "Escape" && running?.abort());
$("models").addEventListener("change", showAsked);
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => {
  talk.length = 0;
  $("talk").replaceChildren();
  $("question").focus();
});
$("again").addEventListener("click", () => talk.length && !running && isAnybodyAsked() && ask(talk.length - 1));
$("back").addEventListener("click", () => move(Object.fromEntries(state.vectors.map((v) => [v.name, null]))));
$("write").addEventListener("click", preview);
$("confirm").addEventListener("click", write);
$("cancel").addEventListener("click", () => $("dialog").close());

async function begin() {
  try {
    state = await (await call("state")).json();
  } catch (error) {
    return say($("trouble"), error.message);
  }
  document.title = `${state.recipe} · dem chat`;
  $("recipe").textContent = state.recipe;
  $("formula").textContent = `${state.method}: ${state.formula}`;
  for (const field of $("settings").querySelectorAll("input")) field.value = state.settings[field.name];
  if (matchMedia("(max-width: 52rem)").matches) document.querySelectorAll("aside details").forEach((one) => (one.open = false));
  drawModels();
  showAsked();
  drawOmega();
}
begin();
