/**
 * Bugs of the kinds that the journal is there against, planted one at a time: each is one place in the built program that is
 * another text. The matrix must turn red on each, or it does not look at what it should.
 */
export interface PlantedBug {
  readonly name: string;
  /** Path below dist/. */
  readonly file: string;
  /** Stands there once. */
  readonly find: string;
  readonly replace: string;
  /** The calls in which it must show. */
  readonly scenarios: readonly string[];
  /** The points of these that are gone through; default: all. */
  readonly points?: RegExp;
}

export const plantedBugs: readonly PlantedBug[] = [
  {
    name: 'a step before its commit',
    file: 'core/journal/journal.js',
    find: 'const rev = await this.commitOrConflict(writes);',
    replace:
      "if (operation?.kind === 'volume.create') await this.runner.takePhase(operation).catch(() => undefined);\n" +
      'const rev = await this.commitOrConflict(writes);',
    scenarios: ['CreateVolume, from a snapshot'],
    points: /^commit volume.create begin/,
  },
  {
    name: 'a lock that is released too early',
    file: 'core/journal/runner.js',
    find: 'const context = this.context(operation);',
    replace:
      'await this.store.commit(await releaseLocks(this.store, operation));\n' +
      'const context = this.context(operation);',
    scenarios: ['DeleteVolume'],
    points: /^step /,
  },
  {
    name: 'an end that keeps its locks',
    file: 'core/journal/runner.js',
    find: 'writes.push(...(await releaseLocks(this.store, { ...document.value, locks: released })));',
    replace:
      "if (value.kind !== 'volume.expand') writes.push(...(await releaseLocks(this.store, { ...document.value, locks: released })));",
    scenarios: ['ExpandVolume'],
    points: /^step /,
  },
  {
    name: 'a token that is forgotten',
    file: 'core/journal/journal.js',
    find: "putToken(tokenKey, token, 'absent', tokenExpireTime),",
    replace: "...(intent.intent === 'operation' ? [] : [putToken(tokenKey, token, 'absent', tokenExpireTime)]),",
    scenarios: ['CreateVolume'],
    points: /^step /,
  },
  {
    name: 'a name that is not in the plan',
    file: 'core/services/trash.js',
    find: 'const { operation: own, plan } = context;',
    replace:
      'const { operation: own } = context;\n' +
      "const plan = { newName: own.resourceId + '.' + (2 + Math.floor(Math.random() * 1e6)) };",
    scenarios: ['UndeleteVolume'],
    points: /^(step|effect) .*(RestoreImage|rbd_trash_restore)/,
  },
  {
    name: 'a shared point in time that is not in the plan',
    file: 'core/services/snapshots/points.js',
    find: 'const plan = { ...document.value.plan, pointId: id };',
    replace: 'const plan = { ...document.value.plan };',
    scenarios: ['CreateSnapshot'],
    points: /^step .*take-point/,
  },
  {
    name: 'an operation that is adopted and not resumed',
    file: 'core/journal/takeover.js',
    find: 'this.journal.resume([{ key: operation.key, rev, value }]);',
    replace: 'void rev;',
    scenarios: ['CreateVolume'],
    points: /^step /,
  },
  {
    name: "a dead controller's record that goes before its operations are adopted",
    file: 'core/journal/takeover.js',
    find: 'if (operation.value.owner === dead.inc)',
    replace:
      'if (operation.value.owner === dead.inc)\n' +
      "await this.commit([{ kind: 'delete', key: keys.controller(dead.inc), expect: 'any' }]);\n" +
      'if (operation.value.owner === dead.inc)',
    scenarios: ['start after a death while a volume was expanded'],
    points: /adopted/,
  },
  {
    name: 'an unknown outcome that is taken for a refusal',
    file: 'core/journal/runner.js',
    find: "error instanceof BackendError && error.failure === 'permanent'",
    replace: "error instanceof BackendError && error.failure !== 'not-begun'",
    scenarios: ['CreateVolume'],
    points: /^effect /,
  },
  {
    name: 'an end that is committed before its effect',
    file: 'core/services/trash.js',
    find: "await context.step('trash-image', (step) => core.backend().data.trashImage(pool, { image, defermentSeconds: pool.undeleteWindowSeconds }, step));",
    replace:
      "void context.step('trash-image', (step) => core.backend().data.trashImage(pool, { image, defermentSeconds: pool.undeleteWindowSeconds }, step)).catch(() => undefined);",
    scenarios: ['DeleteVolume'],
    points: /^(step|effect) /,
  },
  {
    name: 'a purge that is recorded before it is done',
    file: 'core/reaper/reaper.js',
    find: 'const image = requireImage(resource);\n        try {',
    replace: 'const image = requireImage(resource);\n        await this.finishPurge(current);\n        try {',
    scenarios: ['DeleteVolume, until it is purged'],
    points: /^(step|effect) .*PurgeImage/,
  },
  {
    name: 'a half-made image that is adopted unseen',
    file: 'agents/rbd/data/create.js',
    find: 'if (found.whole)\n            return found;',
    replace: 'return { id: found.id, sizeBytes: wanted.sizeBytes, snapshots: [] };',
    scenarios: ['CreateVolume, larger than its snapshot'],
    points: /rbd_clone3|rbd_resize2/,
  },
  {
    name: 'a dead agent that is not cut off',
    file: 'core/journal/agents.js',
    find: 'await this.clean(agent.cluster);',
    replace: 'void agent.cluster;',
    scenarios: ['ExpandVolume'],
    points: /^effect .*ExpandImage/,
  },
];
