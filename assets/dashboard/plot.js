// A small live plot: a curve of the last two minutes, with the newest value in words.

const POINTS = 120;
const SVG = 'http://www.w3.org/2000/svg';

/** @param {string} kind */
function line(kind) {
  const element = document.createElementNS(SVG, 'polyline');
  element.setAttribute('class', kind);
  return element;
}

export class Plot {
  /** @param {HTMLElement} home @param {string} name @param {(value: number) => string} words */
  constructor(home, name, words) {
    this.words = words;
    /** @type {(number | null)[]} */
    this.values = [];
    const figure = document.createElement('figure');
    const caption = document.createElement('figcaption');
    this.value = document.createElement('strong');
    caption.append(`${name} `, this.value);
    this.svg = document.createElementNS(SVG, 'svg');
    this.svg.setAttribute('viewBox', `0 0 ${POINTS - 1} 100`);
    this.svg.setAttribute('preserveAspectRatio', 'none');
    this.svg.setAttribute('aria-hidden', 'true');
    this.curve = line('curve');
    this.limit = line('limit');
    this.svg.append(this.limit, this.curve);
    figure.append(caption, this.svg);
    home.append(figure);
  }

  /** @param {number | null | undefined} value null: nothing to say now @param {number | null} limit a line to compare with */
  add(value, limit = null) {
    this.values.push(value ?? null);
    if (this.values.length > POINTS) this.values.shift();
    this.value.textContent = value == null ? '–' : this.words(value);
    const known = this.values.filter((v) => v !== null);
    const top = Math.max(...known, limit ?? 0, 1e-9) * 1.1;
    /** @param {number} v */
    const y = (v) => (100 - (v / top) * 100).toFixed(1);
    const first = POINTS - this.values.length;
    const points = this.values.map((v, i) => (v === null ? null : `${first + i},${y(v)}`));
    this.curve.setAttribute('points', points.filter((p) => p !== null).join(' '));
    this.limit.setAttribute('points', limit == null ? '' : `0,${y(limit)} ${POINTS - 1},${y(limit)}`);
  }
}
