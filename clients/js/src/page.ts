/** What happens to the page that a timer cannot know. */

import type { Wake } from "./feed.js";

/** The part of `window` and `document` that is used. */
export interface Page {
  addEventListener(type: string, listener: (event: any) => void): void;
  removeEventListener(type: string, listener: (event: any) => void): void;
  document: {
    visibilityState: string;
    addEventListener(type: string, listener: (event: any) => void): void;
    removeEventListener(type: string, listener: (event: any) => void): void;
  };
}

export interface PageListener {
  wake(why: Wake): void;
  /** The page is not seen any more: it may never run again. */
  hidden(): void;
  /** It was left. Browsers keep it for the way back only where it has no connection open. */
  suspend(): void;
  /** Somebody came back to it. */
  resume(): void;
}

/** Watches the page; gives back what ends that. */
export function watchPage(page: Page, listener: PageListener): () => void {
  const online = (): void => listener.wake("online");
  const offline = (): void => listener.wake("offline");
  // Page Lifecycle: a page that was frozen runs again.
  const thaw = (): void => listener.wake("visible");
  const leave = (): void => listener.suspend();
  const show = ({ persisted }: { persisted: boolean }): void => {
    if (persisted) listener.resume();
  };
  const visibility = (): void => {
    if (page.document.visibilityState === "visible") listener.wake("visible");
    else listener.hidden();
  };
  page.addEventListener("online", online);
  page.addEventListener("offline", offline);
  page.addEventListener("pagehide", leave);
  page.addEventListener("pageshow", show);
  page.document.addEventListener("visibilitychange", visibility);
  page.document.addEventListener("resume", thaw);
  return () => {
    page.removeEventListener("online", online);
    page.removeEventListener("offline", offline);
    page.removeEventListener("pagehide", leave);
    page.removeEventListener("pageshow", show);
    page.document.removeEventListener("visibilitychange", visibility);
    page.document.removeEventListener("resume", thaw);
  };
}
