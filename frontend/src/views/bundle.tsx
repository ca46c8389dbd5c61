// What is inside a run's bundle: its contents, its signature, its card, its size by part.
export function Bundle({ run }: { run: string }) {
  return <><h1>Bundle</h1><p class="empty">No bundle of {run} yet. Pack one with: <code>duomem bundle</code></p></>;
}
