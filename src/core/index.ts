import type { ErrorDetails } from './errors.js';
import { Agents } from './journal/agents.js';
import { BeatWatch } from './journal/beat-watch.js';
import type { OperationDefinition } from './journal/definition.js';
import { Journal } from './journal/journal.js';
import { Layout } from './journal/layout.js';
import { Membership } from './journal/membership.js';
import { TakeOver } from './journal/takeover.js';
import type { AgentLifecycle, Backend } from './ports/backend.js';
import type { NodeCertificateIssuer } from './ports/certificates.js';
import type { Clock } from './ports/clock.js';
import { withCommitPoints } from './ports/crash-points.js';
import type { CoreEvents, CoreMetrics } from './ports/metrics.js';
import type { ProcessIdentity } from './ports/process.js';
import type { DescriptorSealer, Vault } from './ports/sealer.js';
import type { Store } from './ports/store.js';
import { keepCutOffs } from './reaper/cut-offs.js';
import { forgetLongGone } from './reaper/feed-horizon.js';
import { removeExpired } from './reaper/janitor.js';
import { Reaper, type ReaperResult } from './reaper/reaper.js';
import { Admin } from './services/admin/admin.js';
import { Hold, settleRestored } from './services/admin/hold.js';
import { Reconciliation } from './services/admin/reconcile.js';
import { repairDefinition } from './services/admin/repair-operation.js';
import type { CoreContext } from './services/context.js';
import { deletePoolDefinition } from './services/delete-pool.js';
import { Enrollments } from './services/enrollment/enrollments.js';
import { Events } from './services/events/events.js';
import { ChangeFeed, withCommitListener } from './services/events/feed.js';
import { createExportDefinition } from './services/exports/create-export.js';
import { Exports } from './services/exports/exports.js';
import { removeExportDefinition } from './services/exports/remove-export.js';
import { fenceNodeDefinition, unfenceNodeDefinition } from './services/node-fence.js';
import { Nodes } from './services/nodes.js';
import { Operations } from './services/operations.js';
import { Pools } from './services/pools.js';
import { relabelDefinition } from './services/relabel.js';
import { createSnapshotDefinition } from './services/snapshots/create-snapshot.js';
import { PointsInTime } from './services/snapshots/points.js';
import { Snapshots, snapshotLabels, snapshotTrash } from './services/snapshots/snapshots.js';
import { deleteDefinition, undeleteDefinition } from './services/trash.js';
import type { Services } from './services/types.js';
import { createVolumeDefinition } from './services/volumes/create-volume.js';
import { expandVolumeDefinition } from './services/volumes/expand-volume.js';
import { Volumes, volumeLabels, volumeTrash } from './services/volumes/volumes.js';
import type { CoreSettings } from './settings.js';

export { type CoreSettings, defaultCoreSettings } from './settings.js';
export type { ErrorDetails };

/** What the core is made of. */
export interface CoreParts {
  readonly store: Store;
  /** Asked for late: the backend's supervision needs the core's `lifecycle` first. */
  readonly backend: () => Backend;
  readonly vault: Vault;
  readonly sealer: DescriptorSealer;
  /** Unset: this controller signs no certificates. */
  readonly issuer?: NodeCertificateIssuer | undefined;
  readonly clock: Clock;
  readonly metrics: CoreMetrics;
  readonly events: CoreEvents;
  readonly settings: CoreSettings;
  /** Lets another controller on the same machine see at once that this one has ended. */
  readonly process?: ProcessIdentity | undefined;
  /**
   * Called once when this controller is lost (its beat stood still for too long, or another one took over): its agents must
   * be killed and a new core made.
   */
  readonly onLost: () => void;
}

/** The core at work. */
export interface Core {
  /** Id of this start, under which its agents run. */
  readonly inc: string;
  readonly services: Services;
  readonly lifecycle: AgentLifecycle;
  /** Registers this controller and takes over from its dead predecessors; start the agents only after it. */
  start(): Promise<void>;
  /** Lets running operations finish, at most so long (milliseconds), then ends. What has not ended is taken up by the next start. */
  stop(graceMilliseconds: number): Promise<void>;
  /** Ends its part as if its beat had stood still: `onLost` is called, and a new core must be made. */
  lose(why: string): void;
  /** Hands over at once what `stop` left running. Once the agents have ended, never before. */
  leave(): Promise<void>;
  /** One pass of the reaper, now. */
  reap(): Promise<ReaperResult>;
}

/** Puts the core together. */
export function createCore(given: CoreParts): Core {
  const parts = { ...given, store: withCommitListener(withCommitPoints(given.store), () => feed.committed()) };
  const { store, clock, events, metrics, settings } = parts;
  const layout = new Layout({ store, events });
  const membership = new Membership({ ...parts, layout });
  const context: CoreContext = {
    ...parts,
    liveCheck: () => membership.liveCheck(),
    refreshMembership: () => membership.refresh(),
  };
  const feed: ChangeFeed = new ChangeFeed(context);
  const definitions = operationDefinitions(context);
  const hold = new Hold(store);
  const reconciliation = new Reconciliation(context, hold, given.store, membership.signal);
  const gate = {
    check: async (): Promise<void> => {
      await reconciliation.check();
      await hold.check();
    },
  };
  const journal = new Journal({ store, clock, events, metrics, settings, membership, definitions, hold: gate, layout });
  const agents = new Agents({ store, clock, events, backend: parts.backend, settings, membership, definitions });
  const watch = new BeatWatch({ store, clock, settings, process: parts.process, inc: membership.inc });
  const mayResume = (): boolean => !reconciliation.pending;
  const takeOver = new TakeOver({
    store,
    clock,
    events,
    settings,
    membership,
    agents,
    journal,
    watch,
    layout,
    mayResume,
  });
  const reaper = new Reaper(context, membership);
  const admin = new Admin(context, journal, hold, membership);
  const background: Promise<void>[] = [];

  const reap = async (): Promise<ReaperResult> => {
    const started = clock.monotonic();
    const result = await reaper.pass();
    metrics.reaperPass({ ...result, milliseconds: clock.monotonic() - started });
    return result;
  };

  const reapForEver = async (): Promise<void> => {
    let lastSweep = clock.monotonic();
    let lastKept = lastSweep;
    while (!membership.signal.aborted) {
      await clock.sleep(settings.reaperIntervalMilliseconds, membership.signal);
      if (membership.signal.aborted) return;
      // Several that purge the same images at once would do no harm, and the same work twice.
      if (!watch.isFirst || reconciliation.pending) continue;
      try {
        // What a restored store takes for deleted may have been undeleted since.
        if ((await hold.mark()) !== undefined) continue;
        await reap();
        if (clock.monotonic() - lastKept >= settings.cutOffIntervalMilliseconds) {
          lastKept = clock.monotonic();
          await keepCutOffs(context);
        }
        await removeExpired(context);
        await forgetLongGone(context);
        if (clock.monotonic() - lastSweep >= settings.sweepIntervalMilliseconds) {
          lastSweep = clock.monotonic();
          await admin.sweep();
        }
      } catch (error) {
        events.notice({
          level: 'warn',
          message: 'a pass of the reaper ended early; the next one goes on',
          fields: {},
          error,
        });
      }
    }
  };

  return {
    inc: membership.inc,
    services: {
      volumes: new Volumes(context, journal),
      snapshots: new Snapshots(context, journal),
      exports: new Exports(context, journal),
      nodes: new Nodes(context, journal),
      enrollment: new Enrollments(context, journal),
      pools: new Pools(context, journal),
      operations: new Operations(context, journal),
      events: new Events(context, feed, membership.signal),
      admin,
    },
    lifecycle: agents,
    start: async () => {
      await membership.start();
      await reconciliation.begin();
      if (!reconciliation.pending) await settleRestored(context, hold);
      await takeOver.begin();
      background.push(reconciliation.run(), takeOver.run(), reapForEver());
    },
    stop: async (graceMilliseconds) => {
      await journal.drain(graceMilliseconds);
      await membership.stop();
      await Promise.all([...background, journal.settled(), agents.settled()]);
    },
    lose: (why) => membership.lose(why),
    leave: () => membership.leave(),
    reap,
  };
}

function operationDefinitions(core: CoreContext): readonly OperationDefinition<never>[] {
  const points = new PointsInTime(core);
  const definitions = [
    createVolumeDefinition(core),
    relabelDefinition(core, volumeLabels(core)),
    expandVolumeDefinition(core),
    deleteDefinition(core, volumeTrash(core)),
    undeleteDefinition(core, volumeTrash(core)),
    createSnapshotDefinition(core, points),
    relabelDefinition(core, snapshotLabels(core)),
    deleteDefinition(core, snapshotTrash(core)),
    undeleteDefinition(core, snapshotTrash(core)),
    createExportDefinition(core),
    removeExportDefinition(core),
    fenceNodeDefinition(core),
    unfenceNodeDefinition(core),
    deletePoolDefinition(core),
    repairDefinition(core),
  ];
  // The runner hands each definition only the plans of its own kind.
  return definitions as unknown as readonly OperationDefinition<never>[];
}
