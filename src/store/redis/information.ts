import { joinAddress } from './options.js';

/** A replica as its primary sees it. */
export interface Replica {
  readonly address: string;
  /** It has the whole data and follows. */
  readonly online: boolean;
  /** Up to where of the replication stream it has said that it has it, bytes. */
  readonly offset: number;
  /** Seconds since it last said so. */
  readonly lag: number;
}

/** What a server says of itself (INFO). */
export interface ServerInformation {
  readonly version: string;
  /** New at each start of the server. */
  readonly runId: string;
  readonly role: string;
  /** Names the history of the data: new at each promotion. */
  readonly replicationId: string;
  /** That of the primary before it was promoted; forty zeros when it never was. */
  readonly formerReplicationId: string;
  /** End of the replication stream, bytes. */
  readonly offset: number;
  readonly replicas: readonly Replica[];
  readonly appendOnly: boolean;
  readonly evictionPolicy: string;
}

/** All that {@link parseInformation} reads, and the part of it that changes. */
export const INFORMATION = ['INFO'] as const;
export const REPLICATION = ['INFO', 'replication'] as const;

/** Reads INFO's text, of the sections that it has. */
export function parseInformation(text: string): ServerInformation {
  const fields = new Map<string, string>();
  for (const line of text.split('\n')) {
    const colon = line.indexOf(':');
    if (colon > 0 && !line.startsWith('#')) fields.set(line.slice(0, colon), line.slice(colon + 1).trim());
  }
  const replicas: Replica[] = [];
  for (const [name, value] of fields) {
    if (!/^slave\d+$/.test(name)) continue;
    // As "ip=127.0.0.1,port=7001,state=online,offset=4711,lag=0".
    const parts = new Map(value.split(',').map((part) => splitOnce(part, '=')));
    replicas.push({
      address: joinAddress(parts.get('ip') ?? '', parts.get('port') ?? ''),
      online: parts.get('state') === 'online',
      offset: Number(parts.get('offset')),
      lag: Number(parts.get('lag')),
    });
  }
  return {
    version: fields.get('redis_version') ?? '',
    runId: fields.get('run_id') ?? '',
    role: fields.get('role') ?? '',
    replicationId: fields.get('master_replid') ?? '',
    formerReplicationId: fields.get('master_replid2') ?? '',
    offset: Number(fields.get('master_repl_offset') ?? Number.NaN),
    replicas,
    appendOnly: fields.get('aof_enabled') === '1',
    evictionPolicy: fields.get('maxmemory_policy') ?? '',
  };
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + separator.length)];
}

/** What a commit waits for. */
export interface ReplicationRule {
  readonly leastReplicas: number;
  readonly replicaTimeoutMilliseconds: number;
  /** Whether a replica may become the primary; those that may not are not waited for. */
  readonly promotable: (address: string) => boolean;
}

/** Replicas that follow their primary. */
export function followingReplicas(replicas: readonly Replica[], rule: ReplicationRule): readonly Replica[] {
  const longest = Math.ceil(rule.replicaTimeoutMilliseconds / 1000);
  return replicas.filter(({ online, lag }) => online && lag >= 0 && lag <= longest);
}

/** Those of them that may be promoted. */
export function replicasInSync(replicas: readonly Replica[], rule: ReplicationRule): readonly Replica[] {
  return followingReplicas(replicas, rule).filter(({ address }) => rule.promotable(address));
}

/** Whether every promotable replica in sync, and enough of them, has the stream up to `offset`. */
export function isReplicated(replicas: readonly Replica[], offset: number, rule: ReplicationRule): boolean {
  const inSync = replicasInSync(replicas, rule);
  return inSync.length >= rule.leastReplicas && inSync.every((replica) => replica.offset >= offset);
}
