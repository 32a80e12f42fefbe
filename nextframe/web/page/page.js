/* The page of `nextframe play`: a start is chosen, then frames come in and actions go out. */

import { Connection, address, download, request } from "./connection.js";
import { Controls, capOf } from "./controls.js";
import { Memory, curve } from "./memory.js";

const $ = (id) => document.getElementById(id);
const world = await (await request("/api/world").catch(({ message }) => {
  Object.assign($("line"), { textContent: message, className: "line error", hidden: false });
  throw new Error(message);
})).json();
const connection = new Connection({ frame: onFrame, message: onMessage, silent: onSilent, dropped: onDropped });
const memory = new Memory({ strip: $("strip"), seek, address: addressOf });
const controls = new Controls({
  world,
  pad: $("pad"),
  sliders: $("sliders"),
  reset: $("keys-reset"),
  send: act,
  ready: () => !$("play").hidden && !$("help").open,
});
let state = null; // what the server said last; null until a session is ready
let newest = {}; // the newest frame of each kind that is not on the canvas yet: none waits behind another
let drawing = false;
let answered = null; // `at` of the newest action whose frame is on screen
let delays = []; // ms from key to picture
let spent = []; // of the newest frames: ms in the transformer and in the decoder
let psnr = new Map(); // frame -> dB
let curveTold = null; // of a branch that the state does not speak of yet
let sought = null; // the frame dragged to, until it is on screen: what comes in between does not move the needle
let seekTimer = 0; // several within 40 ms are one message
let forgetLine = 0;

showWorld();
connectButtons();
resumeAfterReload();

// ---- the start screen

function showWorld() {
  $("model").textContent = world.model;
  $("parameters").textContent = world.parameters ? `· ${short(world.parameters)} parameters` : "";
  document.body.classList.toggle("engine", !world.settings); // no model: the real world alone, to record a walk in
  $("starts").append(...world.starts.map(startButton));
  $("lead").hidden = !world.starts.length;
  $("held-out").hidden = !world.starts.every((start) => start.held_out);
  $("context-field").hidden = world.starts.every(({ frames }) => frames < 2);
  $("real-field").hidden = !world.real;
  $("steered").hidden = !["id", "vector"].includes(world.kind);
  $("label-field").hidden = world.kind !== "label";
  $("label").append(...world.labels.map((name, index) => new Option(name.replaceAll("_", " "), index)));
  $("guidance-field").hidden = !world.guidable;
  $("solver").append(...world.solvers.map((name) => new Option(name)));
  $("repeat-action").append(...controls.commands.map(({ name }, index) => new Option(name.replaceAll("_", " "), index)));
  showSettings(world.settings);
  showScreen("choose");
}

function short(number) {
  return number >= 1e6 ? `${(number / 1e6).toFixed(1)} million` : number.toLocaleString("en");
}

function startButton({ name, thumbnail, frames }) {
  const button = document.createElement("button");
  const picture = Object.assign(new Image(), { src: address(thumbnail), alt: "", loading: "lazy" });
  const label = document.createElement("span");
  label.textContent = name.replaceAll("_", " ");
  const length = Object.assign(document.createElement("small"), { textContent: frames > 1 ? `${frames} frames` : "" });
  button.append(picture, label, length);
  button.onclick = () => {
    if (!$("context").reportValidity()) return;
    const shown = Math.max(1, Math.min($("context").value, frames - 1));
    begin({ type: "start", episode: name, context: shown, real: world.real && $("real").checked }, shown);
  };
  return button;
}

function begin(message, frames) {
  state = sought = null; // of another walk, where a file is dropped in the middle of one
  const looking = frames > 1 ? `The model is looking at ${frames} frames …` : "The model is looking …";
  say(world.settings ? looking : "The world begins …", "wait");
  document.body.classList.add("busy");
  connection.begin(message);
}

async function upload(file) {
  if (!file) return;
  say(`Sending ${file.name} …`, "wait");
  try {
    const answer = await request("/api/upload", { method: "POST", body: file, headers: { "Content-Type": file.type } });
    begin({ type: "start", upload: (await answer.json()).upload, label: Number($("label").value) }, 0);
  } catch (error) {
    say(error.message, "error");
  }
}

/** A reload, by hand or by a phone short of memory, is not the end of a walk. */
function resumeAfterReload() {
  const before = sessionStorage.getItem("nextframe session");
  if (before) connection.begin({ type: "resume", session: before });
}

function showScreen(name) {
  for (const screen of ["choose", "play"]) $(screen).hidden = screen !== name;
  $("again").hidden = name === "choose";
  scrollTo(0, 0);
}

function chooseAgain() {
  controls.releaseAll();
  connection.leave();
  sessionStorage.removeItem("nextframe session");
  document.body.classList.remove("busy");
  state = null;
  showScreen("choose");
}

// ---- what the server says

function onMessage(message) {
  if (message.type === "ready") onReady(message);
  else if (message.type === "state") onState(message);
  else if (message.type === "curve") onCurve(message);
  else if (message.type === "notice" || message.type === "error") say(message.text, message.type);
}

function onReady(ready) {
  document.body.classList.remove("busy");
  sessionStorage.setItem("nextframe session", ready.session);
  if (!state) {
    // Not the same session after a dropped connection, but one whose frames this page has not seen.
    memory.forget();
    psnr = new Map();
    [newest, delays, spent] = [{}, [], []];
  }
  sought = null;
  const { frame, branch, context, real } = ready;
  state = { ...(state ?? { ...memory.state, length: frame + 1 }), frame, branch, context, real };
  say("");
  showScreen("play");
  showState();
}

/** Of a branch this page may not have seen, or whose frames it has forgotten. */
function onCurve(told) {
  curveTold = told;
  takeCurve();
}

function takeCurve() {
  if (curveTold?.branch !== state?.branch) return;
  psnr = new Map(curveTold.psnr);
  curveTold = null;
}

function onState(now) {
  if (now.branch !== state.branch) changeBranch(now);
  state = now;
  takeCurve();
  if (sought !== null) state.frame = sought;
  showState();
}

/** Of a branch that has just begun nothing is known here that is wrong, but for pictures asked for a moment too early. */
function changeBranch({ branch, branches }) {
  const from = (id) => branches.find((one) => one.id === id)?.from ?? 0;
  if (!state.branches.some(({ id }) => id === branch)) return memory.forgetFetched(from(branch));
  forgetFrom(Math.min(from(branch), from(state.branch)));
}

function forgetFrom(first) {
  memory.forgetFrom(first);
  for (const frame of psnr.keys()) if (frame >= first) psnr.delete(frame);
}

function onSilent(silent) {
  say(silent ? "The server does not answer. Waiting for it …" : "", "wait");
}

function onDropped(seconds) {
  document.body.classList.remove("busy");
  controls.releaseAll();
  sought = null;
  if (seconds !== null) return say(`The connection dropped. Trying again in ${seconds} s …`, "wait");
  if ($("line").hidden || $("line").className.includes("wait")) say("The server closed the connection.", "error");
  chooseAgain();
}

function onFrame(frame) {
  newest[frame.kind] = frame;
  if (frame.psnr !== null) psnr.set(frame.frame, frame.psnr);
  if (!drawing) requestAnimationFrame(drawNewest);
  drawing = true;
}

function drawNewest() {
  drawing = false;
  const { dream, truth } = newest;
  newest = {};
  if (truth) paint($("truth"), truth);
  if (!dream) return showCurve();
  paint($("dream"), dream);
  const shown = state && dream.branch === state.branch && dream.frame < state.context;
  if (shown && !truth) paint($("truth"), dream); // what it was shown is the truth
  memory.keep(dream.frame, $("dream"));
  if (dream.frame === sought) sought = null;
  if (state && sought === null && dream.branch === state.branch) { // what comes of another branch, `onState` places
    state.frame = dream.frame;
    state.length = Math.max(state.length, dream.frame + 1);
  }
  const action = world.kind === "id" && world.actions.find(({ id }) => id === dream.action)?.name;
  $("kind").textContent = shown ? "Shown" : "Dream";
  $("caption").textContent = `${action ? `${action.replaceAll("_", " ")}, ` : ""}frame ${dream.frame}`;
  showNumbers(dream);
  showState();
}

function paint(canvas, { pixels, width, height }) {
  const image = new ImageData(width, height);
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    image.data[to] = pixels[from];
    image.data[to + 1] = pixels[from + 1];
    image.data[to + 2] = pixels[from + 2];
    image.data[to + 3] = 255;
  }
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const middle = (numbers) => numbers.toSorted((a, b) => a - b)[numbers.length >> 1];

/** Medians: key to picture of the newest answers, the rest of the newest frames. */
function showNumbers({ at, transformer_ms, decode_ms }) {
  if (at !== null && at !== answered) {
    delays = [...delays, performance.now() - at].slice(-30);
    answered = at;
    $("latency").textContent = `${middle(delays).toFixed(0)} ms`;
  }
  spent = [...spent, [transformer_ms, decode_ms]].filter(([made]) => made).slice(-30);
  if (!spent.length) return;
  const [making, decoding] = [0, 1].map((part) => middle(spent.map((times) => times[part])));
  $("transformer").textContent = `${making.toFixed(0)} ms`;
  $("decoder").textContent = `${decoding.toFixed(decoding < 10 ? 1 : 0)} ms`;
}

// ---- what the visitor sees of it

function showState() {
  if (!state) return;
  const { frame, length, branch, branches, context, real, window, coarse, fps, queue, settings, running } = state;
  const past = frame < length - 1;
  memory.show({ ...state, newest: world.window, ...(world.settings ? {} : { window: length }) }); // the engine: all
  const walked = `${length} ${length === 1 ? "frame" : "frames"}`;
  $("place").textContent = past
    ? `frame ${frame} of ${length - 1} · a key goes on from here, as a new branch`
    : world.settings ? `${context} shown, ${length - context} dreamt` : walked;
  $("truth-figure").hidden = $("curve-figure").hidden = !real;
  $("older").textContent = coarse ? `Memory: ${coarse} older, coarse` : "Memory";
  $("newer").textContent = `newest ${window}, fine`;
  $("back").disabled = frame <= 0;
  $("on").disabled = !past;
  $("pause").disabled = !running;
  $("fps").textContent = fps && running ? fps.toFixed(1) : "–";
  $("queue").textContent = queue;
  $("queue-field").hidden = !queue;
  showSettings(settings);
  showBranches(branches, branch);
  showCurve();
}

function showCurve() {
  if (!state) return;
  const now = psnr.get(state.frame);
  $("curve-line").setAttribute("d", curve(psnr, state));
  $("psnr").textContent = now === undefined ? "" : `${now.toFixed(1)} dB`;
}

function showSettings(settings) {
  for (const name of ["steps", "guidance", "solver"])
    if (settings && document.activeElement !== $(name)) $(name).value = settings[name];
}

function showBranches(branches, current) {
  const list = $("branches");
  list.hidden = branches.length < 2;
  while (list.children.length > branches.length) list.lastChild.remove();
  for (const { id, from, length } of branches) {
    // A button that is being pressed stays the same button.
    const button = list.children[id] ?? list.appendChild(document.createElement("button"));
    button.textContent = id === 0 ? `First · ${length}` : `From ${from} · ${length}`;
    button.title = id === 0 ? `The first branch: ${length} frames` : `Left another branch at frame ${from}: ${length} frames`;
    button.ariaPressed = id === current;
    button.onclick = () => act({ type: "branch", branch: id });
  }
}

function say(text, kind = "notice") {
  clearTimeout(forgetLine);
  $("line").textContent = text;
  $("line").className = `line ${kind}`;
  $("line").hidden = !text;
  if (kind !== "wait") forgetLine = setTimeout(() => say(""), kind === "error" ? 20000 : 6000);
}

// ---- what the visitor does

function act(message) {
  sendSeek();
  sought = null;
  const past = state && state.frame < state.length - 1;
  if (past && message.on !== false && ["act", "hold", "repeat"].includes(message.type)) {
    forgetFrom(state.frame + 1); // a new branch: what came next is no longer what comes next
    state.length = state.frame + 1;
  }
  connection.send(message);
}

function seek(frame) {
  if (!state || !connection.open) return;
  frame = Math.max(0, Math.min(state.length - 1, frame));
  state.frame = frame;
  showState();
  sought = frame;
  seekTimer ||= setTimeout(sendSeek, 40);
}

function sendSeek() {
  if (seekTimer && sought !== null) connection.send({ type: "seek", frame: sought });
  clearTimeout(seekTimer);
  seekTimer = 0;
}

function changeSettings() {
  if (!$("steps").reportValidity() || !$("guidance").reportValidity()) return;
  const settings = { type: "settings", steps: Number($("steps").value), solver: $("solver").value };
  if (world.guidable) settings.guidance = Number($("guidance").value);
  act(settings);
}

function session(rest) {
  return `/api/session/${connection.session}/${rest}`;
}

/** Of a frame's picture. The branch is there for the browser's cache: another branch has another frame of this number. */
function addressOf(frame) {
  return address(session(`frame/${frame}.png?kind=dream&branch=${state.branch}`));
}

function showHelp() {
  const lines = controls.commands.map(({ name }, index) => [controls.keys[index].map(capOf), name.replaceAll("_", " ")]);
  lines.push([[",", "."], "one frame back, one on"], [["p"], "pause"], [["?"], "this page"]);
  $("help-keys").replaceChildren(...lines.map(([caps, what]) => {
    const [line, term, description] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    term.append(...caps.map((cap) => Object.assign(document.createElement("kbd"), { textContent: cap })));
    description.textContent = what;
    line.append(term, description);
    return line;
  }));
  controls.releaseAll();
  $("help").showModal();
  $("help").scrollTop = 0; // the button at its end has the focus
}

function connectButtons() {
  const steps = { back: -1, on: 1 };
  for (const id in steps) $(id).onclick = () => state && seek(state.frame + steps[id]);
  $("home").onclick = () => state && seek(state.context - 1);
  $("pause").onclick = () => act({ type: "pause" });
  $("again").onclick = () => {
    say(""); // of the walk that is left
    chooseAgain();
  };
  $("help-open").onclick = showHelp;
  for (const id of ["steps", "guidance", "solver"]) {
    $(id).onchange = changeSettings;
    $(id).onkeydown = ({ key }) => {
      if (["Enter", "Escape"].includes(key)) $(id).blur();
    };
  }
  $("solver").addEventListener("change", () => $("solver").blur());
  $("repeat").onsubmit = (event) => {
    event.preventDefault();
    const action = controls.commands[$("repeat-action").value].value();
    act({ type: "repeat", action, frames: Number($("repeat-frames").value) });
    document.activeElement.blur();
  };
  const ahead = controls.commands.findIndex(({ role }) => role === "up");
  $("repeat-action").value = Math.max(0, ahead);
  for (const button of document.querySelectorAll("[data-save]")) {
    const format = button.dataset.save;
    button.onclick = () => download(session(`save?format=${format}`), `dream.${format}`).catch((error) => say(error.message, "error"));
  }
  $("file").onchange = () => {
    upload($("file").files[0]);
    $("file").value = "";
  };
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    upload(event.dataTransfer.files[0]);
  });
  addEventListener("keydown", shortcut);
  // After a click the keys belong to the world again, not to the button.
  addEventListener("click", (event) => event.detail && event.target.closest("button")?.blur());
}

/** Keys of the page itself, where the world has not taken them. */
function shortcut(event) {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const button = { ",": "back", ".": "on", p: "pause", "?": "help-open" }[event.key];
  if (button && !$("help").open && (state || button === "help-open")) $(button).click();
}
