// What is inside a run's bundles: signature, size by part, contents, card.
import { Fact, Fold, Problem, Table, Text, Waiting } from "../bits";
import { Bars } from "../charts";
import { type S, bytes, useGet, words } from "../lib";

type View = S["BundleView"];
const COLOURS: Record<string, string> = { bank: "memory", adapter: "adapter", gguf: "both", embedder: "teacher" };

export function Bundle({ run }: { run: string }) {
  const { data, error } = useGet<View[]>("/api/bundles", { run });
  if (error) return <><h1>Bundle</h1><Problem words={error} /></>;
  if (!data) return <><h1>Bundle</h1><Waiting for="the bundles" /></>;
  return (
    <>
      <h1>Bundle</h1>
      {!data.length && <p class="empty">There is no bundle of this run yet. Make one of what its decision ships: <code>duomem bundle RUN</code></p>}
      {data.map((each) => <One key={each.path} view={each} />)}
    </>
  );
}

function One({ view }: { view: View }) {
  if (view.problem) return <section><h2><Text of={view.path} /></h2><Problem words={view.problem!} /></section>;
  const parts = Object.entries(view.bytes ?? {}).sort((a, b) => b[1] - a[1]);
  const total = parts.reduce((sum, [, size]) => sum + size, 0);
  return (
    <section>
      <h2><Text of={view.path} /> <span class={view.signed ? "chip won" : "chip warn"}>{view.signed ? "signed, trusted" : "not trusted here"}</span></h2>
      <p class="lead"><Text of={view.ships ?? ""} /></p>
      <dl class="facts">
        <Fact name="name"><Text of={view.name ?? ""} /> version {view.version}</Fact>
        <Fact name="signature"><Text of={view.signature ?? ""} /></Fact>
        <Fact name="whole">{bytes(total)}</Fact>
        <Fact name="bank, adapter, embedder">{bytes(view.held ?? 0)}</Fact>
      </dl>
      <h3>Size by part</h3>
      <Bars name={`sizes-${view.path.replace(/[^A-Za-z0-9]+/g, "-")}`} label={`Size of ${view.path} by part`} caption={/: merged, /.test(view.page ?? "") ? "The base model is in its merged GGUF." : "The base model is no part of it."} rows={parts.map(([part, size]) => ({ arm: COLOURS[part] ?? "none", label: words(part), parts: [{ value: size }], text: bytes(size) }))}
        grid={{ head: ["part", "bytes"], rows: parts.map(([part, size]) => [words(part), size]) }} />
      <h3>Contents</h3>
      <Table caption={`Contents of ${view.path}`} grid={{ head: ["file", "bytes", "sha256"], rows: (view.members ?? []).map((each) => [each.path, each.size.toLocaleString("en-US"), each.sha256.slice(0, 16)]) }} />
      <Fold label="Its card">{() => <pre class="card"><Text of={view.card ?? ""} /></pre>}</Fold>
      <Fold label="Everything that the bundle says of itself">{() => <pre class="card"><Text of={view.page ?? ""} /></pre>}</Fold>
    </section>
  );
}
