// A list of any length: only the rows in sight are there, and the server is asked for one page of them at a time.
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

const PAGE = 100;

interface Props<T> {
  /** Another key is another list: what was read is forgotten. */
  of: string;
  label: string;
  rowHeight: number;
  read: (offset: number, limit: number) => Promise<{ total: number; rows: T[] }>;
  render: (row: T, index: number) => { href: string; content: ComponentChildren; current?: boolean };
  empty: ComponentChildren;
  onTotal?: (total: number) => void;
  onError?: (words: string) => void;
}

export function VirtualList<T>({ of, label, rowHeight, read, render, empty, onTotal, onError }: Props<T>) {
  const box = useRef<HTMLDivElement>(null);
  const pages = useRef(new Map<number, T[] | null>());
  const wanted = useRef(-1);
  const [total, setTotal] = useState<number | null>(null);
  const [top, setTop] = useState(0);
  const [height, setHeight] = useState(600);
  const [, arrived] = useState(0);

  const load = (page: number) => {
    if (pages.current.has(page)) return;
    pages.current.set(page, null);
    const known = pages.current;
    read(page * PAGE, PAGE).then(
      (answer) => {
        if (known !== pages.current) return;
        known.set(page, answer.rows);
        setTotal(answer.total);
        onTotal?.(answer.total);
        arrived((count) => count + 1);
      },
      (error: Error) => known === pages.current && onError?.(error.message),
    );
  };

  useEffect(() => {
    pages.current = new Map();
    setTotal(null);
    setTop(0);
    box.current?.scrollTo(0, 0);
    load(0);
  }, [of]);

  useLayoutEffect(() => {
    if (!box.current) return;
    const watch = new ResizeObserver(([entry]) => entry && setHeight(entry.contentRect.height));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);

  const first = Math.max(0, Math.floor(top / rowHeight) - 6);
  const last = Math.min((total ?? 0) - 1, Math.ceil((top + height) / rowHeight) + 6);
  useEffect(() => {
    for (let page = Math.floor(first / PAGE); page <= Math.floor(Math.max(last, 0) / PAGE); page++) load(page);
    if (wanted.current >= 0) {
      const link = box.current?.querySelector<HTMLElement>(`[data-index="${wanted.current}"]`);
      if (link) {
        link.focus({ preventScroll: true });
        wanted.current = -1;
      }
    }
  });

  const move = (event: KeyboardEvent) => {
    const from = event.target instanceof HTMLElement ? Number(event.target.closest<HTMLElement>("[data-index]")?.dataset["index"] ?? -1) : -1;
    const step: Record<string, number> = { ArrowDown: 1, ArrowUp: -1, PageDown: Math.floor(height / rowHeight), PageUp: -Math.floor(height / rowHeight) };
    const by = event.key === "Home" ? -Infinity : event.key === "End" ? Infinity : step[event.key];
    if (by === undefined || !total) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(total - 1, from + by));
    wanted.current = to;
    const node = box.current!;
    if (to * rowHeight < node.scrollTop) node.scrollTop = to * rowHeight;
    else if ((to + 1) * rowHeight > node.scrollTop + height) node.scrollTop = (to + 1) * rowHeight - height;
    setTop(node.scrollTop);
    arrived((count) => count + 1);
  };

  const rows: ComponentChildren[] = [];
  for (let index = first; index <= last; index++) {
    const row = pages.current.get(Math.floor(index / PAGE))?.[index % PAGE];
    const style = { position: "absolute", top: `${index * rowHeight}px`, height: `${rowHeight}px`, left: "0", right: "0" } as const;
    if (!row) {
      rows.push(<div key={index} class="line blank" style={style} aria-hidden="true" />);
      continue;
    }
    const { href, content, current } = render(row, index);
    rows.push(
      <div key={index} role="listitem" aria-setsize={total ?? -1} aria-posinset={index + 1} style={style}>
        <a class="line" href={href} data-index={index} aria-current={current ? "true" : undefined}>{content}</a>
      </div>,
    );
  }
  return (
    <div class="list" ref={box} role="region" aria-label={label} tabIndex={0} onScroll={(event) => setTop(event.currentTarget.scrollTop)} onKeyDown={move}>
      {total === null ? <p class="waiting" role="status">Reading …</p> : total === 0 ? empty : (
        <div role="list" style={{ position: "relative", height: `${total * rowHeight}px` }}>{rows}</div>
      )}
    </div>
  );
}
