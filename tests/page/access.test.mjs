/** The page is for everyone: by keyboard, on a phone, in the dark, read out, without motion. */

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { eventually, openPage, publish, runTrial, startBrowser, startDev } from "./harness.mjs";

let dev;
let browser;

before(async () => {
  dev = await startDev();
  browser = await startBrowser();
});

after(async () => {
  await browser.close();
  await dev.stop();
});

const PHONE = { viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 };

test("a newcomer's path goes by keyboard alone, and where one is can be seen", async () => {
  const { page, pane, close } = await openPage(browser, dev);
  const focus = () =>
    page.evaluate(() => {
      const { activeElement: element } = document;
      const { outlineStyle, outlineWidth } = getComputedStyle(element);
      return { name: element.id || element.name || element.textContent, seen: outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 };
    });
  const tabTo = async (name) => {
    for (let step = 0; step < 60; step++) {
      await page.keyboard.press("Tab");
      const now = await focus();
      assert.ok(now.seen, `the focus on ${now.name} cannot be seen`);
      if (now.name === name) return;
    }
    assert.fail(`${name} cannot be reached with Tab`);
  };
  await page.keyboard.press("Tab");
  assert.equal((await focus()).name, "Skip to publishing");
  await tabTo("user");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("kim");
  await page.keyboard.press("Enter");
  await pane().is("live");
  await tabTo("to");
  await page.keyboard.press("Control+A");
  await page.keyboard.type("user:kim");
  await tabTo("data");
  await page.keyboard.press("Control+A");
  await page.keyboard.type('{"typed": true}');
  await page.keyboard.press("Control+Enter");
  await pane().row("event", '{"typed":true}');
  await tabTo("curl");
  await page.keyboard.press("ArrowRight");
  assert.equal((await focus()).name, "herald");
  await page.keyboard.press("End");
  assert.equal((await focus()).name, "JavaScript");
  await page.keyboard.press("ArrowRight");
  assert.equal((await focus()).name, "curl");
  await tabTo("Cut and resume");
  await page.keyboard.press("Enter");
  await page.locator("[data-trial=drop]").getByText(/All 3 came/).waitFor();
  await eventually(async () => (await focus()).name === "Cut and resume", "the focus is where it was");
  await close();
});

test("everything that can be used has a name, and ids are there once", async () => {
  const { page, pane, close } = await openPage(browser, dev);
  await page.getByRole("button", { name: "Add a pane" }).click();
  await pane().connect();
  await page.locator(".more summary").click();
  await pane().root.getByText("Listen in code").click();
  const faults = await page.evaluate(() => {
    const faults = [];
    const text = (id) => document.getElementById(id)?.textContent.trim();
    const shown = (element) => element.checkVisibility();
    for (const element of document.querySelectorAll("input, select, textarea")) {
      const label = [...(element.labels ?? [])].map((one) => one.textContent.trim()).join("");
      if (!label) faults.push(`a field without a label: ${element.outerHTML}`);
      for (const id of (element.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean)) {
        if (!document.getElementById(id)) faults.push(`aria-describedby names ${id}, which is not there`);
      }
    }
    for (const element of document.querySelectorAll("button, summary, a")) {
      const name = element.getAttribute("aria-label") ?? element.textContent.trim();
      if (!name) faults.push(`a button without a name: ${element.outerHTML}`);
    }
    for (const element of document.querySelectorAll("section, [role=tablist], [role=tabpanel], [role=group], [tabindex='0']:not([role=tab])")) {
      const name = element.getAttribute("aria-label") ?? text(element.getAttribute("aria-labelledby"));
      if (shown(element) && !name) faults.push(`a part without a name: ${element.outerHTML.slice(0, 100)}`);
    }
    for (const element of document.querySelectorAll("img, svg")) {
      const hidden = element.closest("[aria-hidden=true]") || element.getAttribute("alt") === "";
      if (!hidden && !element.getAttribute("alt") && !element.getAttribute("aria-label")) faults.push(`a picture without words: ${element.outerHTML.slice(0, 80)}`);
    }
    const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
    for (const id of new Set(ids)) if (ids.filter((one) => one === id).length > 1) faults.push(`id ${id} is there twice`);
    const levels = [...document.querySelectorAll("h1, h2, h3")].filter(shown).map(({ tagName }) => Number(tagName[1]));
    levels.forEach((level, index) => index && level > levels[index - 1] + 1 && faults.push(`a heading of level ${level} after ${levels[index - 1]}`));
    if (levels.filter((level) => level === 1).length !== 1) faults.push("not one h1");
    if (!document.documentElement.lang || !document.title) faults.push("no language or title");
    return faults;
  });
  assert.deepEqual(faults, []);
  await close();
});

test("what happens is told in summaries, not event by event", async () => {
  const { page, pane, close } = await openPage(browser, dev);
  await page.evaluate(() => {
    window.said = [];
    new MutationObserver(() => window.said.push(document.getElementById("live").textContent)).observe(document.getElementById("live"), { childList: true });
  });
  await pane().connect();
  await publish(page, { count: 300 });
  await eventually(() => page.evaluate(() => window.said.some((text) => text.includes("alice has 300 events, median"))), "the summary was told");
  const said = await page.evaluate(() => window.said);
  assert.ok(said.some((text) => text.includes("alice is live")), said.join(" | "));
  assert.ok(said.length <= 5, said.join(" | "));
  assert.equal(await pane().root.locator("[aria-live]:not([aria-live=off])").count(), 0);
  await close();
});

for (const colorScheme of ["light", "dark"]) {
  test(`text and edges have enough contrast, ${colorScheme}`, async () => {
    const { page, pane, close } = await openPage(browser, dev, { colorScheme });
    await page.getByRole("button", { name: "Add a pane" }).click();
    await page.getByRole("button", { name: "Add a pane" }).click();
    await page.getByRole("button", { name: "Add a pane" }).click();
    for (const number of [0, 1, 2]) await pane(number).connect();
    await publish(page, { to: "all" });
    await runTrial(page, "gap");
    await pane(1).button("Drop").click();
    await pane(1).is("away");
    await page.locator(".more summary").click();
    await page.locator("#to").fill("nobody");
    await pane().root.getByText("Listen in code").click();
    const found = await page.evaluate(measure);
    assert.ok(found.texts > 80, `only ${found.texts} texts were found`);
    assert.deepEqual(found.faults, []);
    await close();
  });
}

/** Runs in the page: texts under 4.5 : 1, and edges of fields and buttons under 3 : 1 (WCAG 1.4.3, 1.4.11). */
function measure() {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const read = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r, g, b].map((v, i) => (v * a + [R, G, B][i] * (255 - a)) / 255);
  const light = (color) => {
    const [r, g, b] = color.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (a, b) => {
    const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const { backgroundColor } = getComputedStyle(at);
      layers.push(read(backgroundColor));
      if (layers.at(-1)[3] === 255) break;
    }
    return layers.reduceRight((below, layer) => over(layer, below), read("canvas").slice(0, 3));
  };
  const faults = [];
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const wash = read(getComputedStyle(document.documentElement).getPropertyValue("--warn-wash").trim()).slice(0, 3);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest(".visually-hidden, .skip, option, script, :disabled, noscript")) continue;
    texts++;
    const color = read(getComputedStyle(element).color);
    // The stripes of a gap are of two colours: the worse one counts.
    const grounds = [ground(element), ...(element.closest(".gap") ? [wash] : [])];
    for (const below of grounds) {
      const ratio = contrast(over(color, below), below);
      if (ratio < 4.5) faults.push(`${ratio.toFixed(2)}: ${element.className || element.tagName} “${walker.currentNode.data.trim().slice(0, 30)}”`);
    }
  }
  for (const element of document.querySelectorAll("input, select, textarea, button:not([role=tab], .remove, .chip, :disabled)")) {
    if (!element.checkVisibility()) continue;
    const edge = read(getComputedStyle(element).borderTopColor);
    const around = ground(element.parentElement);
    const ratio = Math.max(contrast(over(edge, around), around), contrast(ground(element), around));
    if (ratio < 3) faults.push(`${ratio.toFixed(2)}: the edge of ${element.name || element.textContent}`);
  }
  return { faults, texts };
}

test("on a phone nothing is wider than the screen, and what is touched is large enough", async () => {
  const { page, pane, close } = await openPage(browser, dev, PHONE);
  const width = () => page.evaluate(() => document.documentElement.scrollWidth);
  assert.equal(await width(), 360);
  await pane().connect({ user: "somebody-with-quite-a-long-name-indeed@example.com", topics: "a.long.topic.name, another/long:topic@name" });
  await publish(page, { to: "all", type: "a.type.that.is.long.enough.to.be.cut.off.at.the.end", data: `"${"wide".repeat(300)}"` });
  await pane().row("event", "a.type");
  await runTrial(page, "gap");
  await runTrial(page, "slow");
  await page.locator(".more summary").click();
  await pane().root.getByText("Listen in code").click();
  for (const name of ["curl", "herald", "Python", "JavaScript"]) {
    await pane().root.getByRole("tab", { name }).click();
    assert.equal(await width(), 360, name);
  }
  const small = await page.evaluate(() =>
    [...document.querySelectorAll("button, input, select, summary")]
      .filter((element) => element.checkVisibility())
      .map((element) => [element.textContent || element.name, element.getBoundingClientRect()])
      .filter(([, { width, height }]) => width < 24 || height < 24)
      .map(([name, { width, height }]) => `${name}: ${width} × ${height}`),
  );
  assert.deepEqual(small, []);
  await close();
});

test("nothing moves for those who want no motion", async () => {
  const { page, close } = await openPage(browser, dev, { reducedMotion: "reduce" });
  await page.evaluate(() => document.querySelector(".pill").classList.add("connecting"));
  assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
  await close();
});

test("text at twice its size still fits", async () => {
  const { page, pane, close } = await openPage(browser, dev, { viewport: { width: 720, height: 900 } });
  await page.evaluate(() => (document.documentElement.style.fontSize = "200%"));
  await pane().connect();
  await publish(page);
  await pane().row("event", "order.shipped");
  assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= 720);
  await close();
});
