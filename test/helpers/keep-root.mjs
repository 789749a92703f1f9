// Loaded by what is loaded into an agent to write down what it does: files can be written only while the agent keeps its root.
// An agent that nothing is loaded into enters its empty root, in tests as elsewhere.
import koffi from 'koffi';

/** Leaves the agent's chroot out. Before anything of the program is loaded. */
export function keepRoot() {
  const load = koffi.load;
  koffi.load = (...libraries) => {
    const library = load(...libraries);
    // The handle itself is read-only.
    return {
      func: (prototype) => (/\bchroot\(/.test(prototype) ? () => 0 : library.func(prototype)),
      symbol: (...names) => library.symbol(...names),
    };
  };
}
