/* What the model remembers, as a strip of frames to drag through; and how near the dream is to the truth, as a curve. */

const FETCHES = 4; // at a time
const KEPT = 1000; // thumbnails
const SHARE = 0.64; // of the strip, for the fine window

export class Memory {
  /** `seek(frame)` when the strip is dragged; `address(frame)` of a picture that never passed through this page. */
  constructor({ strip, seek, address }) {
    Object.assign(this, { strip, seek, address });
    this.canvas = strip.querySelector("canvas");
    this.window = strip.querySelector(".window");
    this.needle = strip.querySelector(".needle");
    new ResizeObserver(() => this.#fit()).observe(strip);
    strip.onpointerdown = (event) => {
      strip.setPointerCapture(event.pointerId);
      this.#drag(event);
    };
    strip.onpointermove = (event) => strip.hasPointerCapture(event.pointerId) && this.#drag(event);
    strip.onpointerup = strip.onclick = () => strip.blur(); // the arrows are the world's again
    strip.onkeydown = (event) => this.#key(event);
    this.forget();
  }

  forget() {
    this.thumbnails = new Map();
    this.asked = new Set();
    this.fetching = 0;
    this.state = { frame: 0, length: 0, newest: 16, window: 16, coarse: 0, branch: 0, branches: [] };
  }

  show(state) {
    this.state = state;
    this.strip.ariaValueMax = state.length - 1;
    this.strip.ariaValueNow = state.frame;
    this.strip.ariaValueText = `frame ${state.frame} of ${state.length - 1}`;
    this.draw();
  }

  forgetFrom(first) {
    for (const frame of this.thumbnails.keys()) if (frame >= first) this.thumbnails.delete(frame);
    this.forgetFetched(first);
  }

  forgetFetched(first) {
    for (const frame of this.asked) {
      if (frame >= first && this.asked.delete(frame)) this.thumbnails.delete(frame);
    }
  }

  /** Keeps a thumbnail of a frame that is on screen anyway. */
  keep(frame, picture) {
    const side = Math.min(1, 64 / picture.height);
    const small = new OffscreenCanvas(Math.ceil(picture.width * side), Math.ceil(picture.height * side));
    small.getContext("2d").drawImage(picture, 0, 0, small.width, small.height);
    this.thumbnails.set(frame, small);
    this.asked.delete(frame);
    if (this.thumbnails.size <= KEPT) return;
    const [oldest] = this.thumbnails.keys();
    this.thumbnails.delete(oldest);
    this.asked.delete(oldest); // it may be asked for again
  }

  draw() {
    const { frame, length, window, coarse } = this.state;
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    for (const { at, left, right, small } of this.#cells(width, height)) {
      const fine = at <= frame && at > frame - window;
      const known = at <= frame && at > frame - window - coarse;
      context.globalAlpha = fine ? 1 : known ? 0.6 : 0.22;
      const picture = this.#thumbnail(at);
      const tall = small ? 0.7 * height : height;
      if (picture) drawCover(context, picture, left, (height - tall) / 2, right - left, tall);
    }
    const [from, to] = [this.#left(Math.max(0, frame - window + 1)), this.#left(frame + 1)];
    place(this.window, from, to - from);
    place(this.needle, this.#left(frame) + (to - this.#left(frame)) / 2, 0);
    this.window.hidden = length < 2;
  }

  /** Frames for as many thumbnails as there is room for: every fine one on a desk, samples of the older ones. */
  #cells(width, height) {
    const { length } = this.state;
    const split = this.#split();
    const cells = [];
    const fill = (first, last, from, to, small) => {
      const room = Math.floor(((to - from) * width) / (height * (small ? 0.72 : 0.6)));
      const count = Math.min(last - first, Math.max(1, room));
      for (let cell = 0; cell < count; cell++) {
        let at = first + Math.floor(((cell + 0.5) * (last - first)) / count);
        if (small && last - first > 4 * count) at -= at % 4; // stays the same for a while as the strip grows
        const edge = (index) => Math.round((from + ((to - from) * index) / count) * width);
        cells.push({ at, left: edge(cell), right: edge(cell + 1) - 1, small });
      }
    };
    if (split.older) fill(0, split.older, 0, split.share, true);
    fill(split.older, length, split.share, split.end, false);
    return cells;
  }

  /** The strip is two scales side by side: older frames on its left share, the `newest` on the rest. */
  #split() {
    const { length } = this.state;
    const newest = Math.max(16, this.state.newest);
    const older = Math.max(0, length - newest);
    const share = (1 - SHARE) * Math.min(1, older / newest);
    return { older, share, end: share + (1 - share) * Math.min(1, length / newest) };
  }

  /** Where a frame begins, from 0 to 1. */
  #left(frame) {
    const { older, share, end } = this.#split();
    const { length } = this.state;
    return frame < older ? (share * frame) / older : share + ((end - share) * (frame - older)) / (length - older);
  }

  #frameAt(x) {
    const { older, share, end } = this.#split();
    const { length } = this.state;
    const frame = x < share ? (x / share) * older : older + ((x - share) / (end - share)) * (length - older);
    return Math.max(0, Math.min(length - 1, Math.floor(frame)));
  }

  #drag(event) {
    const box = this.strip.getBoundingClientRect();
    this.seek(this.#frameAt((event.clientX - box.left) / box.width));
  }

  #key(event) {
    const { frame, length, window } = this.state;
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: window, PageDown: -window };
    const to = { Home: 0, End: length - 1 }[event.key] ?? frame + steps[event.key];
    if (Number.isNaN(to) || !this.strip.matches(":focus-visible")) return;
    event.preventDefault();
    event.stopPropagation(); // on the strip the arrows drag it; elsewhere they are the world's
    this.seek(Math.max(0, Math.min(length - 1, to)));
  }

  #thumbnail(frame) {
    const known = this.thumbnails.get(frame);
    if (!known && !this.asked.has(frame) && this.fetching < FETCHES) this.#fetch(frame);
    return known;
  }

  async #fetch(frame) {
    const { thumbnails, asked } = this;
    asked.add(frame);
    this.fetching++;
    try {
      const picture = new Image();
      picture.src = this.address(frame);
      await picture.decode();
      if (thumbnails === this.thumbnails && asked.has(frame)) {
        this.keep(frame, picture);
        asked.add(frame); // fetched, not seen
      }
    } catch {} // no picture of this frame: its place stays empty
    if (thumbnails !== this.thumbnails) return;
    this.fetching--;
    this.draw();
  }

  #fit() {
    const scale = devicePixelRatio;
    this.canvas.width = Math.max(1, Math.round(this.strip.clientWidth * scale));
    this.canvas.height = Math.max(1, Math.round(this.strip.clientHeight * scale));
    this.draw();
  }
}

function place(element, left, width) {
  element.style.left = `${100 * left}%`;
  element.style.width = width ? `${100 * width}%` : "";
}

/** Fills a box with the middle of a picture, like a frame of a film strip. */
function drawCover(context, picture, x, y, width, height) {
  const scale = Math.max(width / picture.width, height / picture.height);
  const [w, h] = [width / scale, height / scale];
  context.drawImage(picture, (picture.width - w) / 2, (picture.height - h) / 2, w, h, x, y, width, height);
}

/** The newest 150 values as an SVG path of 600 x 60, 35 dB on top and 10 at the bottom; upright, where one has gone back. */
export function curve(values, { frame, length }) {
  const first = Math.max(Math.min(...values.keys()), length - 150);
  const wide = 600 / Math.max(60, length - 1 - first);
  let path = "";
  for (let at = first; at < length; at++) {
    if (!values.has(at)) continue;
    const y = 60 * (1 - (Math.min(35, Math.max(10, values.get(at))) - 10) / 25);
    path += `${values.has(at - 1) && path ? "L" : "M"}${(wide * (at - first)).toFixed(1)} ${y.toFixed(1)}`;
  }
  const back = frame >= first && frame < length - 1;
  return back ? `${path}M${(wide * (frame - first)).toFixed(1)} 0V60` : path;
}
