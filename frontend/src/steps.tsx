// One step of an episode, and what stands before the first: used by the view of one episode and by that of two.
import { Fold, MemoryLink, Text } from "./bits";
import { type S, address, percent, seconds, short, whole } from "./lib";

export type Full = S["EpisodeFull"];
export type Step = S["Step"];

export function StepBody({ step, run, reference }: { step: Step; run: string; reference: string }) {
  const cached = step.usage.prompt ? step.usage.cached! / step.usage.prompt : 0;
  const apart = step.thought !== "" || step.action !== "";
  return (
    <>
      {step.reasoning && <p class="thought"><span class="tag">reasoning</span><Text of={step.reasoning} /></p>}
      {step.thought && <p class="thought"><span class="tag">thought</span><Text of={step.thought} /></p>}
      {step.action ? <p class="action"><span class="tag">action</span><code><Text of={step.action} /></code>{step.repaired && <span class="chip warn">repaired</span>}</p>
        : <p class="action bad"><span class="tag">reply</span><Text of={step.reply} /> <span class="chip warn">no action in it</span></p>}
      {apart && !step.thought && !step.reply.endsWith(step.action) && <Fold label="The whole reply">{() => <pre><Text of={step.reply} /></pre>}</Fold>}
      {step.reply_chars > step.reply.length && <p class="note">{whole(step.reply_chars)} characters; the first {whole(step.reply.length)} are shown.</p>}
      <div class={step.valid ? "seen" : "seen bad"}>
        <span class="tag">{step.valid ? "seen" : "no effect"}</span>
        {step.waiting ? <span class="soft">the environment has not answered yet</span> : <Text of={step.observation} />}
        {step.observation_chars > step.observation.length && (
          <p class="note">The first {whole(step.observation.length)} of {whole(step.observation_chars)} characters. <a href={address("/api/observation", { run, ref: reference, index: step.index })} download>Download all of it</a></p>
        )}
      </div>
      {step.recalled && <div class="recalled"><span class="tag">injected</span><Text of={step.recalled} /></div>}
      <p class="cost">
        <span>{short(step.usage.prompt!)} prompt tokens</span>
        <span class="share" title={`${percent(cached)} from the cache`}><svg width="44" height="7" aria-hidden="true"><rect width="44" height="7" class="share-all" /><rect width={44 * cached} height="7" class="share-cached" /></svg>{percent(cached)} cached</span>
        <span>{short(step.usage.completion!)} said</span>
        <span>{seconds(step.seconds)}</span>
        {step.finish === "length" && <span class="bad">cut at its limit</span>}
      </p>
    </>
  );
}

export function Injected({ full, run, only }: { full: Full; run: string; only?: string[] }) {
  if (!full.row.memories.length) return <p class="soft">No memory was shown.</p>;
  return (
    <ul class="injected">
      {full.injected.map((memory) => (
        <li class={memory.status && memory.status !== "live" ? "aside" : ""}>
          <p><MemoryLink run={run} id={memory.id} seed={full.bank_seed} />
            {only?.includes(memory.id) && <span class="chip run">only here</span>}
            {memory.status && memory.status !== "live" && <span class="chip warn">now {memory.status}</span>}
          </p>
          {memory.text ? <pre><Text of={memory.text} /></pre> : <p class="soft">The bank no longer has its text.</p>}
        </li>
      ))}
    </ul>
  );
}

export function Prompt({ full }: { full: Full }) {
  return (
    <Fold label={`The prompt, as the model got it (${full.prompt.length} ${full.prompt.length === 1 ? "message" : "messages"})`}>
      {() => full.prompt.map((said) => (
        <div class="said"><span class="tag">{said.role}</span><pre><Text of={said.text} /></pre>
          {said.chars > said.text.length && <p class="note">{whole(said.chars)} characters; the first {whole(said.text.length)} are shown.</p>}
        </div>
      ))}
    </Fold>
  );
}
