// Asking the server, going from view to view, and writing numbers.
import { useEffect, useState } from "preact/hooks";
import type { components } from "./api";

export type S = components["schemas"];

const meta = (name: string) => document.querySelector(`meta[name="${name}"]`)?.getAttribute("content") ?? "";

export type Query = Record<string, string | number | boolean | null | undefined>;

export function address(path: string, query: Query = {}): string {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== "" && value !== null && value !== undefined && value !== false) given.set(name, String(value));
  }
  const text = given.toString();
  return text ? `${path}?${text}` : path;
}

async function answered<T>(response: Response): Promise<T> {
  if (response.ok) return (await response.json()) as T;
  const said: { error?: string; detail?: unknown } = await response.json().catch(() => ({}));
  throw new Error(said.error ?? (said.detail ? JSON.stringify(said.detail) : `The server answered ${response.status}.`));
}

export async function get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  return answered<T>(await fetch(address(path, query), { signal }));
}

/** A change. The token was given to this page alone; a page of another site has no way to it. */
export async function post<T>(path: string, body: unknown): Promise<T> {
  const headers = { "content-type": "application/json", "x-duomem-token": meta("duomem-token") };
  return answered<T>(await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

export interface Got<T> {
  data?: T;
  error?: string;
  /** Ask again, keeping what is shown until the answer is there. */
  again: () => void;
}

/** What the server says to a question; asked again whenever the question changes. */
export function useGet<T>(path: string | null, query: Query = {}): Got<T> {
  const url = path && address(path, query);
  const [state, set] = useState<{ url: string | null; data?: T; error?: string }>({ url: null });
  const [turn, next] = useState(0);
  useEffect(() => {
    if (!url) return;
    const stop = new AbortController();
    get<T>(url, {}, stop.signal).then(
      (data) => set({ url, data }),
      (error: Error) => error.name !== "AbortError" && set({ url, error: error.message }),
    );
    return () => stop.abort();
  }, [url, turn]);
  const again = () => next((count) => count + 1);
  return state.url === url ? { data: state.data, error: state.error, again } : { again };
}

// ------------------------------------------------------------------------------------------------------ from view to view

const MOVED = "duomem:moved";

export function go(url: string, replace = false): void {
  history[replace ? "replaceState" : "pushState"](null, "", url);
  dispatchEvent(new Event(MOVED));
  if (!replace) scrollTo(0, 0);
}

export function useLocation(): { path: string; query: URLSearchParams } {
  const [, moved] = useState(0);
  useEffect(() => {
    const hear = () => moved((count) => count + 1);
    addEventListener("popstate", hear);
    addEventListener(MOVED, hear);
    return () => {
      removeEventListener("popstate", hear);
      removeEventListener(MOVED, hear);
    };
  }, []);
  return { path: location.pathname.replace(/^\//, ""), query: new URLSearchParams(location.search) };
}

/** Links of this page change the view without loading it again. */
export function followLinks(): void {
  addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a") : null;
    const plain = !event.defaultPrevented && event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey;
    if (!link || !plain || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (link.pathname.startsWith("/api") || link.hash) return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
}

export const typing = (event: KeyboardEvent): boolean =>
  event.target instanceof Element && event.target.matches("input, select, textarea, [contenteditable]");

export function useKeys(act: (key: string, event: KeyboardEvent) => boolean | void): void {
  useEffect(() => {
    const hear = (event: KeyboardEvent) => {
      if (typing(event) || event.metaKey || event.ctrlKey || event.altKey) return;
      if (act(event.key, event)) event.preventDefault();
    };
    addEventListener("keydown", hear);
    return () => removeEventListener("keydown", hear);
  });
}

// ------------------------------------------------------------------------------------------------------------------- numbers

export const percent = (share: number | null | undefined): string =>
  share === null || share === undefined ? "–" : `${(100 * share).toFixed(1)}%`;
export const span = (interval: readonly number[] | null | undefined): string =>
  interval ? `${(100 * interval[0]!).toFixed(1)}–${(100 * interval[1]!).toFixed(1)}` : "–";
export const signed = (value: number): string => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(1)}`;
export const whole = (value: number): string => Math.round(value).toLocaleString("en-US");

export function short(count: number): string {
  if (count < 1000) return String(Math.round(count));
  return count < 1e6 ? `${(count / 1e3).toFixed(count < 1e4 ? 1 : 0)}k` : `${(count / 1e6).toFixed(count < 1e7 ? 1 : 0)}M`;
}

export function seconds(value: number): string {
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(1)} s`;
  const minutes = Math.round(value / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  return count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

export function when(unix: number): string {
  if (!unix) return "";
  const ago = Date.now() / 1000 - unix;
  if (ago < 90) return "just now";
  if (ago < 3600) return `${Math.round(ago / 60)} min ago`;
  if (ago < 86400) return `${Math.round(ago / 3600)} h ago`;
  return new Date(unix * 1000).toISOString().slice(0, 10);
}

// --------------------------------------------------------------------------------------------------------- text made harmless

/* What would change how the text around it is shown, or be shown as nothing: control characters, bidi controls, invisible
   format characters, halves of surrogate pairs. Line feed, tab and the two joiners stay. */
export const UNSAFE =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\u{13430}-\u{1343f}\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e007f}]/gu;

export function standIn(code: number): string {
  if (code < 32) return String.fromCharCode(0x2400 + code);
  if (code === 127) return "\u2421";
  return code >= 0xd800 && code <= 0xdfff ? "\ufffd" : `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

/** The same where there is no room for an element: options, titles, labels of charts. */
export const plain = (text: string): string => text.replace(UNSAFE, (found) => standIn(found.codePointAt(0)!));

export const words = (name: string): string => plain(name.replaceAll("_", " "));

export const TITLES: Record<string, string> = {
  none: "none", format_only: "format only", memory: "memory", adapter: "adapter", both: "both", decoy: "decoy memories",
  teacher: "teacher", no_same_room: "memory, other rooms", both_decoy: "adapter + decoys", collect: "teacher's training runs",
  practice: "practice", record: "recorded", import: "imported",
};
export const title = (arm: string): string => TITLES[arm] ?? words(arm);
