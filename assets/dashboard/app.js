// The dashboard: cameras, flow and events of one daemon, from its own API. Asks no other host.

import { Plot } from './plot.js';

/** @typedef {import('../weir.api-1').Camera} Camera */
/** @typedef {import('../weir.api-1').Event} WeirEvent */
/** @typedef {'overrun' | 'stale' | 'skipped' | 'decode_error' | 'failed'} Fate */

/**
 * An element of this page, of the kind that it is there.
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @param {new () => T} [_kind]
 */
const $ = (id, _kind) => /** @type {T} */ (document.getElementById(id));
const large = $('large', HTMLDialogElement);
const picture = $('large-picture', HTMLImageElement);
/** @type {Fate[]} */
const FATES = ['overrun', 'stale', 'skipped', 'decode_error', 'failed'];
const KINDS = ['track.started', 'track.updated', 'track.ended', 'zone.entered', 'zone.left', 'zone.dwell', 'line.crossed',
  'camera.online', 'camera.offline', 'camera.changed'];
// A browser opens six connections a host: one is for events, one for the API, one for a large picture.
const PICTURES_AT_A_TIME = 3;
// A grid of five pictures a second looks alive; the large picture has them all.
const PICTURE_EVERY_MS = 200;
const OFFLINE_EVERY_MS = 5000;
const MOST_EVENTS = 200;

/** @param {number | null | undefined} value */
const number = (value, digits = 0) => (value == null ? '–' : value.toFixed(digits));
/** @param {string | null} text */
const clock = (text) => (text ? text.slice(11, 19) : '–');

/**
 * @template {keyof import('../weir.api-1').WeirApi1} K
 * @param {string} path
 * @param {K} _kind which answer it is
 * @returns {Promise<import('../weir.api-1').WeirApi1[K]>}
 */
async function ask(path, _kind) {
  const answer = await fetch(path, { cache: 'no-store' });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} kind
 */
function make(kind, words = '', name = '') {
  const element = document.createElement(kind);
  if (words) element.textContent = words;
  if (name) element.className = name;
  return element;
}

// Writes only what has changed: a screen reader hears of every write.
/** @param {HTMLElement} element @param {string} words */
function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

// ---- cameras

/** @type {Map<string, Tile>} */
const tiles = new Map();

class Tile {
  /** @param {string} name */
  constructor(name) {
    this.name = name;
    this.state = '';
    this.visible = false;
    this.busy = false;
    this.next = 0;
    this.turn = 0;
    /** @type {Camera | null} */
    this.camera = null;
    this.item = make('li');
    this.button = make('button', '', 'picture');
    this.button.type = 'button';
    this.button.setAttribute('aria-haspopup', 'dialog');
    this.image = make('img');
    this.image.alt = `${name}, large picture`;
    this.button.append(this.image);
    this.button.addEventListener('click', () => enlarge(this));
    const about = make('div', '', 'about');
    this.word = make('span', '', 'state');
    const facts = make('dl');
    this.facts = ['frames/s', 'p95', 'tracks'].map((title) => {
      const value = make('dd');
      facts.append(make('dt', title), value);
      return value;
    });
    this.lost = make('p', '', 'lost');
    about.append(make('h3', name), this.word, facts, this.lost);
    this.item.append(this.button, about);
    seen.observe(this.item);
  }

  /** @param {Camera} camera */
  show(camera) {
    this.camera = camera;
    if (this.state !== camera.state) {
      this.state = camera.state;
      this.word.className = `state ${camera.state}`;
      this.next = 0;
    }
    say(this.word, camera.state);
    const p95 = camera.latency_ms?.p95;
    const values = [number(camera.fps_in, 1), p95 == null ? '–' : `${number(p95)} ms`, String(camera.tracks)];
    this.facts.forEach((element, i) => say(element, values[i]));
    const lost = FATES.filter((fate) => camera.frames[fate] > 0);
    const total = camera.frames.in || 1;
    /** @param {Fate} fate */
    const part = (fate) => `${fate.replace('_', ' ')} ${camera.frames[fate]} (${((camera.frames[fate] / total) * 100).toFixed(1)} %)`;
    const words = lost.length ? lost.map(part).join(' · ') : 'no frame left out';
    say(this.lost, camera.state === 'offline' ? `${camera.reason?.message} · since ${clock(camera.since)} · ${words}` : words);
  }

  async refresh() {
    this.busy = true;
    const next = performance.now() + PICTURE_EVERY_MS;
    try {
      const width = Math.ceil(this.button.clientWidth * Math.min(window.devicePixelRatio, 2));
      const answer = await fetch(`/api/v1/cameras/${this.name}/snapshot.jpg?width=${Math.max(width, 320)}`);
      if (!answer.ok) throw new Error(String(answer.status));
      const old = this.image.src;
      this.image.src = URL.createObjectURL(await answer.blob());
      this.item.dataset.frame = answer.headers.get('x-weir-frame') ?? 'none';
      if (old.startsWith('blob:')) URL.revokeObjectURL(old);
      this.next = answer.headers.has('x-weir-signal') ? performance.now() + OFFLINE_EVERY_MS : next;
    } catch {
      this.next = performance.now() + OFFLINE_EVERY_MS;
    }
    this.busy = false;
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    for (const tile of tiles.values()) if (tile.item === entry.target) tile.visible = entry.isIntersecting;
  }
  pump();
});

// Gives each visible camera its turn; the one that has waited longest comes first.
let turn = 0;
function pump() {
  if (document.hidden || large.open) return;
  const all = [...tiles.values()];
  let free = PICTURES_AT_A_TIME - all.filter((tile) => tile.busy).length;
  const now = performance.now();
  const waiting = all.filter((tile) => tile.visible && !tile.busy && tile.next <= now);
  waiting.sort((a, b) => a.turn - b.turn);
  for (const tile of waiting) {
    if (free-- <= 0) break;
    tile.turn = ++turn;
    tile.refresh();
  }
}

async function cameras() {
  const { node, cameras } = await ask('/api/v1/cameras', 'cameras');
  say($('node'), `· ${node}`);
  document.title = `weir · ${node}`;
  for (const camera of cameras) {
    let tile = tiles.get(camera.name);
    if (!tile) {
      tile = new Tile(camera.name);
      tiles.set(camera.name, tile);
      $('cameras').append(tile.item);
    }
    tile.show(camera);
  }
  // Those that were taken out of the configuration go.
  for (const [name, tile] of tiles) {
    if (cameras.some((camera) => camera.name === name)) continue;
    tile.item.remove();
    tiles.delete(name);
  }
  /** @param {string} state */
  const count = (state) => cameras.filter((camera) => camera.state === state).length;
  const away = cameras.filter((camera) => camera.state !== 'online').map((camera) => camera.name);
  say($('summary'), `${count('online')} of ${cameras.length} cameras online${away.length ? `; not: ${away.join(', ')}` : ''}`);
  const open = tiles.get(enlarged)?.camera;
  if (open) say($('large-text'), `${open.state} · ${number(open.fps_in, 1)} frames/s · p95 ${number(open.latency_ms?.p95)} ms`);
  pump();
}

// ---- one camera, large

let enlarged = '';

const annotated = $('annotated', HTMLInputElement);

function stream() {
  const boxes = annotated.checked ? 1 : 0;
  picture.src = `/api/v1/cameras/${enlarged}/stream.mjpg?annotated=${boxes}&t=${Date.now()}`;
}

/** @param {Tile} tile */
function enlarge(tile) {
  enlarged = tile.name;
  $('large-title').textContent = tile.name;
  picture.alt = `${tile.name}, live picture`;
  large.showModal();
  stream();
}

annotated.addEventListener('change', stream);
$('close').addEventListener('click', () => large.close());
large.addEventListener('close', () => {
  // Ends the stream: an image that is only hidden goes on being loaded.
  picture.removeAttribute('src');
  enlarged = '';
  pump();
});

// ---- flow

/** @param {number} value */
const ms = (value) => `${number(value, 1)} ms`;
const plots = {
  wait: new Plot($('plots'), 'Wait limit Δ', ms),
  batch: new Plot($('plots'), 'Frames a batch', (value) => number(value, 1)),
  p95: new Plot($('plots'), 'p95, target dashed', ms),
  rho: new Plot($('plots'), 'Load ρ', (value) => number(value, 2)),
};

async function flow() {
  const { pace, slo_p95_ms: target } = await ask('/api/v1/flow', 'flow');
  plots.wait.add(pace?.wait_limit_ms);
  plots.batch.add(pace?.mean_batch_frames, pace?.batch_limit_frames);
  plots.p95.add(pace?.p95_ms, target);
  plots.rho.add(pace?.rho, 1);
  say($('flow-reason'), pace ? `Limits are set by: ${pace.reason.replaceAll('_', ' ')}${pace.saturated ? ' · saturated' : ''}` : 'The engine is not warm yet');
}

// ---- events

let paused = false;
const updates = $('updates', HTMLInputElement);
const list = $('events');

/** @param {WeirEvent} event */
function note(event) {
  if (paused || (event.kind === 'track.updated' && !updates.checked)) return;
  const item = make('li');
  const time = make('time', clock(event.time));
  time.dateTime = event.time;
  item.append(time, make('strong', event.camera), make('span', event.kind));
  if (event.track) item.append(make('span', `${event.track.label} ${event.track.id} · ${number(event.track.score * 100)} %`));
  if (event.zone) item.append(make('span', event.zone.name));
  if (event.line) item.append(make('span', `${event.line.name} ${event.line.direction.replace('_', ' ')}`));
  if (event.reason) item.append(make('span', event.reason.message));
  item.dataset.seq = String(event.seq);
  put(item);
}

/** @param {HTMLElement} item */
function put(item) {
  list.prepend(item);
  while (list.childElementCount > MOST_EVENTS) list.lastElementChild?.remove();
}

async function events() {
  const { last } = await ask('/api/v1/events?limit=1', 'events');
  const source = new EventSource(`/api/v1/events/stream?after=${Math.max(0, last - 50)}`);
  for (const kind of KINDS) source.addEventListener(kind, (message) => note(JSON.parse(message.data)));
  source.addEventListener('weir.gap', (message) => put(make('li', `${JSON.parse(message.data).lost ?? 'some'} events were missed`)));
}

$('pause').addEventListener('click', () => {
  paused = !paused;
  $('pause').setAttribute('aria-pressed', String(paused));
});

// ---- the box

async function devices() {
  const { video_encoder: encoder } = await ask('/api/v1/devices', 'devices');
  const failed = (encoder?.trials ?? []).filter((trial) => trial.problem).map((trial) => `${trial.encoder}: ${trial.problem}`);
  const chosen = encoder?.chosen ? `RTSP out is encoded by ${encoder.chosen}` : failed.length ? 'No video encoder works here' : 'RTSP out is off';
  say($('devices'), failed.length ? `${chosen} (${failed.join('; ')})` : chosen);
}

// Asks again and again, a second after each answer; trouble is told once and mended by the next answer.
/** @param {() => Promise<void>} work */
async function keep(work) {
  for (;;) {
    try {
      await work();
    } catch {
      say($('summary'), 'The daemon does not answer');
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

/** @param {() => Promise<void>} work */
async function once(work) {
  for (;;) {
    try {
      return await work();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

document.addEventListener('visibilitychange', pump);
setInterval(pump, PICTURE_EVERY_MS / 4);
keep(cameras);
keep(flow);
once(events);
once(devices);
