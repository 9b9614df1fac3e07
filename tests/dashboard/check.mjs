// The dashboard in a real browser. `tests/dashboard.rs` starts the daemon and this: node check.mjs PLAYWRIGHT CHROMIUM URL [SHOT].
// The daemon has a camera `street`, which plays, and `dead`, which nobody answers for. Exits non-zero with what is wrong.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const [playwright, executablePath, url, shot] = process.argv.slice(2);
const { chromium } = createRequire(import.meta.url)(playwright);
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });

async function open(options) {
  const page = await browser.newPage({ baseURL: url, ...options });
  const trouble = [];
  page.on('console', (message) => message.type() === 'error' && trouble.push(`console: ${message.text()}`));
  page.on('pageerror', (error) => trouble.push(`error: ${error}`));
  page.on('request', (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith('blob:')) trouble.push(`request: ${request.url()}`);
  });
  // Before any script of the page: how late each event is when it stands there.
  await page.addInitScript(() => {
    window.ages = [];
    window.broken = [];
    document.addEventListener('securitypolicyviolation', (event) => window.broken.push(event.violatedDirective));
    document.addEventListener('DOMContentLoaded', () => {
      new MutationObserver((changes) => {
        const added = changes.flatMap((change) => [...change.addedNodes]);
        const times = added.map((item) => item.querySelector?.('time')?.dateTime).filter(Boolean);
        window.ages.push(...times.map((time) => Date.now() - Date.parse(time)));
      }).observe(document.getElementById('events'), { childList: true });
    });
  });
  const answer = await page.goto('/');
  assert.match(answer.headers()['content-security-policy'], /default-src 'none'/);
  const done = async () => {
    trouble.push(...(await page.evaluate(() => window.broken)).map((what) => `policy: ${what}`));
    assert.deepEqual(trouble, []);
    await page.close();
  };
  return { page, done };
}

async function moves(locator) {
  const first = await locator.screenshot();
  for (let i = 0; i < 50; i++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
    if (!first.equals(await locator.screenshot())) return;
  }
  assert.fail('the picture does not move');
}

try {
  const { page, done } = await open({ viewport: { width: 1360, height: 900 }, colorScheme: 'light' });
  const tile = (name) => page.locator('#cameras li', { has: page.getByRole('heading', { name, exact: true }) });
  await tile('street').and(page.locator('[data-frame]:not([data-frame=none])')).waitFor();
  await tile('street').locator('.state', { hasText: 'online' }).waitFor();
  await moves(tile('street').locator('img'));

  await tile('dead').locator('.state', { hasText: 'offline' }).waitFor();
  await tile('dead').and(page.locator('[data-frame=none]')).waitFor();
  assert.match(await tile('dead').locator('.lost').textContent(), /since \d\d:\d\d:\d\d/);
  assert.match(await page.getByRole('status').textContent(), /1 of 2 cameras online; not: dead/);

  // Only events that happened while the page was open count: it also shows the last fifty from before.
  const opened = await page.evaluate(() => (window.ages = []) && Date.now());
  await page.waitForFunction(() => window.ages.length >= 5, undefined, { timeout: 60000 });
  const ages = await page.evaluate(() => window.ages);
  console.log(`event to page, ms: ${ages.slice(0, 20).join(' ')} (opened ${opened})`);
  assert.ok(Math.max(...ages) <= 1000, `an event came late: ${ages}`);

  await page.waitForFunction(() => [...document.querySelectorAll('#plots strong')].filter((v) => /\d/.test(v.textContent)).length >= 3);
  if (shot) {
    await page.waitForTimeout(8000);
    await page.screenshot({ path: shot, type: 'jpeg', quality: 80 });
  }

  // By keyboard alone: to the picture, into it and out again.
  const button = page.getByRole('button', { name: 'street, large picture' });
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement.className), 'skip');
  await page.keyboard.press('Enter');
  for (let i = 0; i < 5 && !(await button.evaluate((b) => b === document.activeElement)); i++) await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await page.getByRole('dialog', { name: 'street' }).waitFor();
  await moves(page.locator('#large-picture'));
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'hidden' });
  assert.ok(await button.evaluate((b) => b === document.activeElement), 'focus comes back');
  await moves(tile('street').locator('img'));
  await done();

  for (const [name, options] of Object.entries({
    phone: { viewport: { width: 360, height: 740 }, colorScheme: 'dark' },
    wall: { viewport: { width: 3840, height: 2160 }, colorScheme: 'dark' },
  })) {
    const { page, done } = await open(options);
    await page.locator('#cameras li[data-frame]').first().waitFor();
    const [wide, inner] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
    assert.ok(wide <= inner, `${name}: ${wide} columns on a screen of ${inner}`);
    const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    assert.equal(dark, 'rgb(16, 22, 28)', name);
    await done();
  }
} finally {
  await browser.close();
}
