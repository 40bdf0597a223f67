// Uses the dashboard as a person would, in a real browser: each page, each action. What it finds wrong ends it with an error.
//
// dashboard.mjs URL FOLDER [TOKEN]: a node where the pipeline `p` (plugins/picky) has read five events from `in`, of which two are dead letters, and
// waits for a sixth key; the folder takes screenshots. With a token, the node asks for one.

import { createRequire } from "node:module";
import assert from "node:assert/strict";

const require = createRequire(`${process.env.PLAYWRIGHT}/`);
const { chromium } = require("playwright-core");
const [url, folder, token] = process.argv.slice(2);

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const told = [];

async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, ...options });
  context.setDefaultTimeout(30_000);
  const page = await context.newPage();
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && told.push(message.text()));
  page.on("pageerror", (error) => told.push(error.message));
  page.on("request", (request) => request.url().startsWith(url) || told.push(`asks ${request.url()}`));
  return page;
}

async function shot(page, name) {
  await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
}

/** Waits for a text somewhere on the page. */
async function sees(page, text) {
  await page.getByText(text).first().waitFor();
}

/** In the dialog that is open: the command line it shows, then done by its button. */
async function confirm(page, button, command) {
  const dialog = page.getByRole("dialog");
  await dialog.getByLabel("The command line that does the same").getByText(command, { exact: true }).waitFor();
  await dialog.getByRole("button", { name: button, exact: true }).click();
  await dialog.waitFor({ state: "detached" });
}

async function act(page, action, button, command) {
  await page.getByRole("button", { name: action, exact: true }).click();
  await confirm(page, button, command);
}

async function overview(page) {
  const response = await page.goto(`${url}/`);
  const policy = response.headers()["content-security-policy"];
  assert.match(policy, /default-src 'none'; script-src 'self'; style-src 'self'/);
  await page.getByRole("link", { name: /^Pipeline p: idle/ }).waitFor();
  await page.getByRole("link", { name: /^Topic in: 5 events/ }).waitFor();
  await page.getByRole("row", { name: /^p idle 0/ }).waitFor();
  await sees(page, "all well");
  await shot(page, "overview");
}

async function keyboard(page) {
  await page.goto(`${url}/`);
  await page.getByRole("row", { name: /^p idle/ }).waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  const table = page.getByRole("table", { name: "Pipelines" }).getByRole("link", { name: "p" });
  await table.focus();
  // It stays where it is while what is shown is renewed.
  await page.waitForResponse(/\/status$/);
  await page.waitForResponse(/\/status$/);
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "p");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: /^p / }).waitFor();
  const pause = page.getByRole("button", { name: "Pause", exact: true });
  await pause.focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog", { name: "Pause p?" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
}

async function pipeline(page) {
  await page.goto(`${url}/#/pipelines/p`);
  await page.getByRole("heading", { name: "p idle" }).waitFor();
  for (const chart of ["Throughput", "Lag, events", "Lag, time", "Latency of calls"]) await page.getByRole("heading", { name: chart }).waitFor();
  await sees(page, /^Now: read /);
  assert.equal(await page.locator(".chart canvas").count(), 4);
  await page.getByLabel("What plugins write to the log").getByText("hello from the plugin").waitFor();
  await page.getByRole("row", { name: /^in\/0 5 5 0/ }).waitFor();
  await page.getByRole("row", { name: /in\/0 1 stage picky: .*event 1 is bad.* dead lettered$/ }).waitFor();
  await shot(page, "pipeline");

  await act(page, "Pause", "Pause", "sluice pipeline pause p");
  await page.getByRole("heading", { name: "p paused" }).waitFor();
  await sees(page, "is paused.");
  await shot(page, "paused");

  await page.getByRole("button", { name: "Rewind…", exact: true }).click();
  const dialog = page.getByRole("dialog", { name: "Rewind p?" });
  assert.ok(await dialog.getByRole("button", { name: "Rewind", exact: true }).isDisabled(), "nothing is rewound unseen");
  await dialog.getByLabel(/^To:/).fill("0:2");
  await dialog.getByRole("button", { name: "Show what it would do" }).click();
  await dialog.getByRole("row", { name: "in 0 5 2 3 again" }).waitFor();
  await shot(page, "rewind");
  await confirm(page, "Rewind", "sluice rewind p --to 0:2 --yes");
  await page.getByRole("row", { name: /^in\/0 2 5 3/ }).waitFor();
  await act(page, "Undo a rewind…", "Undo", "sluice rewind p --undo --yes");
  await page.getByRole("row", { name: /^in\/0 5 5 0/ }).waitFor();

  // The definition was changed since: there is something to go back to.
  await page.getByRole("row", { name: /^2 .* probation/ }).waitFor();
  await page.getByText("Generation 2 of p is on probation").waitFor();
  await act(page, "Roll back…", "Roll back", "sluice plugin rollback p");
  await page.getByRole("row", { name: /^2 .* rolled back .* by hand$/ }).waitFor();
  await page.getByText("p goes on as it was: what stands in the files is generation 2").waitFor();

  await page.getByRole("button", { name: "Checkpoint…" }).click();
  await page.getByRole("dialog").getByLabel("Name").fill("before-noon");
  await confirm(page, "Make it", "sluice checkpoint create before-noon --pipeline p");
  await page.getByRole("row", { name: /^before-noon/ }).getByRole("button").click();
  await page.getByRole("dialog", { name: "Rewind p?" }).getByRole("button", { name: "Show what it would do" }).click();
  await confirm(page, "Rewind", "sluice rewind p --to checkpoint:before-noon --yes");

  await page.getByRole("heading", { name: "p paused" }).getByText("paused").waitFor();
  await page.locator(".actions").first().getByRole("button", { name: "Resume" }).click();
  await confirm(page, "Resume", "sluice pipeline resume p");
  await page.getByRole("heading", { name: "p idle" }).waitFor();
  await act(page, "Drain", "Drain", "sluice pipeline drain p");
  await page.getByRole("heading", { name: "p paused" }).waitFor();
  await page.locator(".actions").first().getByRole("button", { name: "Resume" }).click();
  await confirm(page, "Resume", "sluice pipeline resume p");
  await page.getByRole("heading", { name: "p idle" }).waitFor();
}

async function checkpoints(page) {
  await page.goto(`${url}/#/checkpoints`);
  await page.getByRole("row", { name: /^before-noon/ }).waitFor();
  await page.getByRole("button", { name: "Make one of all pipelines…" }).click();
  await page.getByRole("dialog").getByLabel("Name").fill("all");
  await confirm(page, "Make it", "sluice checkpoint create all");
  await page.getByRole("row", { name: /^all/ }).waitFor();
  await act(page, "Delete all", "Delete", "sluice checkpoint delete all");
  await act(page, "Delete before-noon", "Delete", "sluice checkpoint delete before-noon");
  await sees(page, "None yet.");
  await shot(page, "checkpoints");
}

async function topic(page) {
  await page.goto(`${url}/#/topics`);
  await page.getByRole("link", { name: "in", exact: true }).click();
  await sees(page, /5 events, offsets 0 to 4 of 5/);
  await page.getByLabel("Key", { exact: true }).fill("b");
  await page.getByRole("button", { name: "Read" }).click();
  await sees(page, /1 events, offsets 4 to 4 of 5/);
  await page.getByText('{"fine":true}').click();
  await page.locator(".json .key").getByText('"fine":').waitFor();
  await shot(page, "topic");
  await page.getByLabel("Key", { exact: true }).fill("");
  await page.getByLabel(/^From:/).fill("3");
  await page.getByRole("button", { name: "Read" }).click();
  await sees(page, /2 events, offsets 3 to 4 of 5/);
  await page.getByRole("button", { name: "Older" }).click();
  await sees(page, /5 events, offsets 0 to 4 of 5/);
}

async function dead(page) {
  await page.goto(`${url}/#/pipelines/p/dead`);
  await sees(page, /2 open, 0 redriven/);
  const bad = page.getByRole("row").filter({ hasText: "is bad" });
  await bad.getByRole("button", { name: /^Show one/ }).click();
  await page.getByRole("heading", { name: "One of them" }).waitFor();
  await page.getByRole("definition").filter({ hasText: "event 1 is bad" }).waitFor();
  await shot(page, "dead");
  await bad.getByRole("button", { name: /^Redrive/ }).click();
  const line = await page.getByLabel("The command line that does the same").textContent();
  assert.match(line, /^sluice dead redrive p --cause [0-9a-f]{8} --yes$/);
  await confirm(page, "Redrive", line);
  await sees(page, /1 failed again/);
  await act(page, "Discard all", "Discard", "sluice dead discard p --all --yes");
  await sees(page, "Nothing is open.");
}

async function everywhere() {
  for (const [name, options] of [["dark", { colorScheme: "dark" }], ["phone", { viewport: { width: 360, height: 740 } }]]) {
    const page = await open(options);
    for (const [file, path, text] of [["overview", "", "Written"], ["pipeline", "#/pipelines/p", "Partitions"], ["topic", "#/topics/in", "offsets 0"], ["dead", "#/pipelines/p/dead", "Nothing is open."]]) {
      await page.goto(`${url}/${path}`);
      await sees(page, text);
      await shot(page, `${name}-${file}`);
      const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
      assert.ok(wide <= window, `${name} ${file}: ${wide} wide in a window of ${window}`);
    }
    await page.context().close();
  }
}

/** A node that asks for a token. */
async function asked() {
  const page = await open();
  await page.goto(`${url}/`);
  await page.getByLabel("Token").fill("wrong");
  await page.getByRole("button", { name: "Go on" }).click();
  await sees(page, "this token is none of this node's");
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Go on" }).click();
  await page.getByRole("row", { name: /^p / }).waitFor();
  await shot(page, "token");
  // Browsers tell of each answer of 401.
  const others = told.splice(0).filter((text) => !text.includes("401"));
  assert.deepEqual(others, []);
}

let step = "start";
try {
  if (token) await asked();
  else {
    const page = await open();
    for (const part of [overview, keyboard, pipeline, checkpoints, topic, dead]) {
      step = part.name;
      await part(page);
    }
    step = "everywhere";
    await everywhere();
  }
  assert.deepEqual(told, [], "the browser has nothing to say");
} catch (error) {
  console.error(`${step}: ${error.stack}\nthe browser said: ${told.join("\n")}`);
  for (const context of browser.contexts()) for (const page of context.pages()) await shot(page, "failed").catch(() => {});
  process.exitCode = 1;
}
await browser.close();
