import type { ImageParent, ImageRecord, Point } from '../../src/core/model/image.js';
import type { Pool, PoolStatus } from '../../src/core/model/resources.js';
import {
  type AgentIdentity,
  type Backend,
  BackendError,
  type CatalogueEntry,
  type CreateImageOutcome,
  type DataBackend,
  type FenceBackend,
  type ImageFacts,
  type ImageQuery,
  type OwnConnection,
  type StepContext,
} from '../../src/core/ports/backend.js';

/*
 * A backend in memory for what a real Ceph cannot be made to show on demand: any fault at any step, in any order. It refuses
 * what Ceph or the agent would refuse, and notes in `violations` what they would let pass although it must never be asked
 * for (a name used twice, a purge that forgets a point, a lock broken before its owner was cut off, …).
 */

/** What goes wrong with a step. `after` and `half-made` take effect all the same. */
export type Fault =
  | { readonly kind: 'permanent'; readonly code?: string; readonly reason?: string }
  | { readonly kind: 'not-begun' }
  | { readonly kind: 'unknown-before' }
  | { readonly kind: 'unknown-after' }
  /** CreateImage only: an image of the right name and size without a parent. */
  | { readonly kind: 'half-made' }
  /** The data agent dies in the step; `after`: when it had taken effect. A step on an open image leaves its lock there. */
  | { readonly kind: 'agent-dies'; readonly after: boolean }
  /** Waits, then goes on as usual; gives up with an unknown outcome when the step's signal aborts first. */
  | { readonly kind: 'hang'; readonly until: Promise<void>; readonly deaf?: boolean };

interface FakePoint {
  readonly name: string;
  readonly id: string;
  readonly sizeBytes: number;
  readonly data: Map<number, string>;
  trashed: boolean;
  readonly children: Set<string>;
}

export interface FakeImage {
  readonly id: string;
  name: string;
  sizeBytes: number;
  trashed: boolean;
  parent?: { readonly imageId: string; readonly pointId: string };
  readonly points: Map<string, FakePoint>;
  readonly data: Map<number, string>;
  readonly watchers: Set<string>;
  readonly locks: Set<string>;
}

/** The agents of one controller. */
export interface FakeAgents {
  readonly backend: Backend;
  readonly fence: AgentIdentity;
  data: AgentIdentity;
  readonly connections: Map<string, OwnConnection>;
  /** Resolves once the data agent may be given steps. */
  admitted: Promise<void>;
  admit: () => void;
}

type Effect<T> = (fault: Fault | undefined) => T;

/** See the top of the file. One Ceph cluster with one pool. */
export class FakeBackend {
  readonly images = new Map<string, FakeImage>();
  readonly catalogue = new Map<string, Uint8Array>();
  readonly users = new Map<string, { readonly imageId: string; readonly key: string }>();
  /** Clients that are connected as an export's user. */
  readonly sessions = new Map<string, Set<string>>();
  readonly cutOff = new Set<string>();
  /** Until when, in milliseconds since the epoch. */
  readonly cutOffUntil = new Map<string, number>();
  readonly violations: string[] = [];
  readonly calls: { readonly method: string; readonly operationId: string; readonly name: string }[] = [];
  /** Called when the data agent dies in a step. */
  onAgentDeath: (agents: FakeAgents) => void = () => undefined;
  /** Says what goes wrong with a step; asked once for each. */
  fault: (method: string, context: StepContext) => Fault | undefined = () => undefined;
  /** Ceph pools in which the fence agents have no rights. */
  readonly closed = new Set<string>();
  /** How often one asks until an image is flattened. */
  flattenQuestions = 3;
  /** Images that are being flattened, and how often was asked. */
  readonly flattening = new Map<string, number>();
  readonly #usedNames = new Set<string>();
  #next = 1;

  /** Takes over what another one held. */
  load(held: Pick<FakeBackend, 'images' | 'catalogue' | 'users' | 'sessions' | 'cutOff'>): void {
    for (const [id, image] of held.images) {
      this.images.set(id, image);
      this.#usedNames.add(image.name);
    }
    for (const [key, value] of held.catalogue) this.catalogue.set(key, value);
    for (const [id, user] of held.users) this.users.set(id, user);
    for (const [id, addresses] of held.sessions) this.sessions.set(id, addresses);
    for (const address of held.cutOff) this.cutOff.add(address);
    // Far behind every id that the other one gave.
    this.#next = 1_000_000;
  }

  /** What a catalogue entry says, without a look at its tag. */
  catalogueEntry(key: string): Readonly<Record<string, unknown>> {
    const text = Buffer.from(this.catalogue.get(key) ?? '').toString('latin1');
    const json = Buffer.from(text.slice(text.indexOf('{"version"')), 'latin1').toString();
    return JSON.parse(json) as Record<string, unknown>;
  }

  /** The agents of a new controller. */
  attach(): FakeAgents {
    const agents: FakeAgents = {
      backend: undefined as unknown as Backend,
      fence: this.#identity('fence'),
      data: this.#identity('data'),
      connections: new Map(),
      admitted: Promise.resolve(),
      admit: () => undefined,
    };
    closeGate(agents);
    Object.assign(agents, { backend: { data: this.#data(agents), fence: this.#fence(agents) } });
    return agents;
  }

  /** Kills the data agent and starts its successor, which waits to be admitted. @returns the dead one */
  killData(agents: FakeAgents): AgentIdentity {
    const dead = agents.data;
    this.flattening.clear();
    agents.data = this.#identity('data');
    agents.connections.clear();
    closeGate(agents);
    return dead;
  }

  /** A node opens the volume with an export's user. */
  openVolume(exportId: string, address: string): void {
    const user = this.users.get(exportId);
    const image = user === undefined ? undefined : this.images.get(user.imageId);
    if (image === undefined) throw new Error(`${exportId} has no user`);
    if (this.cutOff.has(address)) throw new Error(`${address} is cut off`);
    const sessions = this.sessions.get(exportId) ?? new Set();
    this.sessions.set(exportId, sessions.add(address));
    image.watchers.add(address);
    if (image.locks.size === 0) image.locks.add(address);
  }

  /** The node closes it in good order. */
  closeVolume(exportId: string, address: string): void {
    this.sessions.get(exportId)?.delete(address);
    for (const image of this.images.values()) {
      image.watchers.delete(address);
      image.locks.delete(address);
    }
  }

  /** The node's host freezes: its watch and its sessions end, its lock stays. */
  freeze(address: string): void {
    if (address.endsWith(':0/0')) {
      const host = address.slice(0, -1);
      const held = [...this.images.values()].flatMap(({ watchers, locks }) => [...watchers, ...locks]);
      const all = [...[...this.sessions.values()].flatMap((sessions) => [...sessions]), ...held];
      for (const each of all) if (each.startsWith(host) && each !== address) this.freeze(each);
      return;
    }
    for (const sessions of this.sessions.values()) sessions.delete(address);
    for (const image of this.images.values()) image.watchers.delete(address);
  }

  find(name: string): FakeImage | undefined {
    return [...this.images.values()].find((image) => image.name === name);
  }

  /** Writes a block of an image. */
  write(name: string, block: number, value: string): void {
    const image = this.find(name);
    if (image === undefined || image.trashed) throw new Error(`there is no image ${name}`);
    image.data.set(block, value);
  }

  /** Reads a block, through the ancestors. @throws Error when one of them is gone */
  read(name: string, block: number): string {
    const image = this.find(name);
    if (image === undefined || image.trashed) throw new Error(`there is no image ${name}`);
    return this.#readBlock(image, image.data, block);
  }

  #readBlock(image: FakeImage, data: ReadonlyMap<number, string>, block: number): string {
    const own = data.get(block);
    if (own !== undefined) return own;
    if (image.parent === undefined) return '';
    const parent = this.images.get(image.parent.imageId);
    const point = parent?.points.get(image.parent.pointId);
    if (parent === undefined || point === undefined) throw new Error(`${image.name} has lost its parent`);
    return this.#readBlock(parent, point.data, block);
  }

  #identity(role: 'data' | 'fence'): AgentIdentity {
    const number = this.#number();
    return { agentId: `${role}-${number}`, cluster: 'main', role, addresses: [`10.9.0.1:0/${number}`] };
  }

  #number(): number {
    this.#next += 1;
    return this.#next;
  }

  async #step<T>(agents: FakeAgents, method: string, context: StepContext, effect: Effect<T>): Promise<T> {
    const role = isFence(method) ? 'fence' : 'data';
    if (role === 'data') await orAborted(agents.admitted, context);
    await new Promise((resolve) => setImmediate(resolve));
    if (context.signal?.aborted === true) throw unknown('the controller ended');
    this.calls.push({ method, operationId: context.operationId, name: context.name });
    const agent = agents[role];
    const fault = this.fault(method, context);
    if (fault?.kind === 'permanent') {
      throw new BackendError('permanent', fault.code ?? 'FAILED_PRECONDITION', `${method} is refused.`, {
        reason: fault.reason ?? 'REFUSED',
      });
    }
    if (fault?.kind === 'not-begun') throw new BackendError('not-begun', 'UNAVAILABLE', `${method} has not begun.`);
    if (fault?.kind === 'unknown-before') throw unknown(`${method} took too long.`);
    if (fault?.kind === 'agent-dies' && !fault.after) {
      this.onAgentDeath(agents);
      throw unknown('the agent died');
    }
    if (fault?.kind === 'hang') {
      if (fault.deaf === true) await fault.until;
      else await orAborted(fault.until, context);
    }
    // Whoever was cut off meanwhile reaches nothing any more, however late its request is.
    if (agent.addresses.some((address) => this.cutOff.has(address))) throw unknown('the agent is cut off');
    const result = effect(fault);
    if (fault?.kind === 'agent-dies') {
      this.onAgentDeath(agents);
      throw unknown('the agent died');
    }
    if (fault?.kind === 'unknown-after' || fault?.kind === 'half-made') throw unknown(`${method} took too long.`);
    return result;
  }

  #image(record: ImageRecord): FakeImage {
    const image = this.images.get(record.backendId);
    if (image === undefined) throw refused('NOT_FOUND', 'ENOENT', `there is no image ${record.name}`);
    return image;
  }

  /** An image that may be open, through a connection of its own; its lock must not be a dead agent's. */
  #open(agents: FakeAgents, connection: OwnConnection, record: ImageRecord): FakeImage {
    if (!agents.connections.has(connection.connectionId)) {
      throw new BackendError('not-begun', 'UNAVAILABLE', 'The connection is unknown.', {
        reason: 'UNKNOWN_CONNECTION',
      });
    }
    if (connection.addresses.some((address) => this.cutOff.has(address))) {
      throw new BackendError('unknown', 'UNAVAILABLE', 'The connection was cut off.', { reason: 'CONNECTION_CUT_OFF' });
    }
    const image = this.#image(record);
    const live = new Set([...agents.connections.values()].flatMap((one) => one.addresses));
    for (const owner of image.locks) {
      if (owner.startsWith('10.9.') && !live.has(owner)) throw unknown(`${image.name} is locked by the dead ${owner}`);
    }
    return image;
  }

  #data(agents: FakeAgents): DataBackend {
    const step = <T>(method: string, context: StepContext, effect: Effect<T>) =>
      this.#step(agents, method, context, effect);
    /** As `step`, but a death leaves the lock of the connection on the image. */
    const openStep = async <T>(
      method: string,
      context: StepContext,
      connection: OwnConnection,
      record: ImageRecord,
      effect: (image: FakeImage) => T,
    ): Promise<T> => {
      const before = agents.data;
      // One that never had the connection, or has closed it, leaves no lock of it.
      const held = agents.connections.has(connection.connectionId);
      try {
        return await step(method, context, () => effect(this.#open(agents, connection, record)));
      } finally {
        const image = this.images.get(record.backendId);
        if (held && agents.data !== before && image !== undefined) {
          image.locks.clear();
          for (const address of connection.addresses) image.locks.add(address);
        }
      }
    };
    return {
      connectorFacts: async () => ({
        connector: 'rbd',
        connectorJson: new TextEncoder().encode('{"monitors":["10.0.0.1:3300"]}'),
      }),
      poolStatus: () => STATUS,
      probePool: (_pool, context) => step('probePool', context, () => STATUS),
      openConnection: (_pool, context) =>
        step('openConnection', context, () => {
          const number = this.#number();
          const connection = {
            connectionId: `connection-${number}`,
            agentId: agents.data.agentId,
            addresses: [`10.9.1.1:0/${number}`],
          };
          agents.connections.set(connection.connectionId, connection);
          return connection;
        }),
      closeConnection: (_pool, connection, context) =>
        step('closeConnection', context, () => {
          agents.connections.delete(connection.connectionId);
        }),
      createImage: (_pool, request, context) =>
        step('createImage', context, (fault) => this.#createImage(request, fault?.kind === 'half-made')),
      takePoint: (_pool, { connection, image, pointName }, context) =>
        openStep('takePoint', context, connection, image, (found) => {
          const known = [...found.points.values()].find((point) => point.name === pointName);
          if (known?.trashed === true) this.violations.push(`point ${pointName} is taken again after its removal`);
          const point = known ?? this.#addPoint(found, pointName);
          return { point: { name: point.name, backendId: point.id }, sizeBytes: point.sizeBytes, time: Date.now() };
        }),
      removePoint: (_pool, { connection, image, point }, context) =>
        openStep('removePoint', context, connection, image, (found) => this.#removePoint(found, point)),
      expandImage: (_pool, { connection, image, sizeBytes }, context) =>
        openStep('expandImage', context, connection, image, (found) => {
          found.sizeBytes = Math.max(found.sizeBytes, sizeBytes);
          return { sizeBytes: found.sizeBytes };
        }),
      flattenImage: (_pool, record, context) => step('flattenImage', context, () => this.#flatten(record)),
      stopFlatten: (_pool, record, context) =>
        step('stopFlatten', context, () => {
          const image = this.#image(record);
          this.flattening.delete(image.id);
          return image.parent === undefined;
        }),
      getUsage: (_pool, record, context) =>
        step('getUsage', context, () => {
          const image = this.images.get(record.backendId);
          if (image === undefined) return [];
          return [...new Set([...image.watchers, ...image.locks])].map((address) => ({
            address,
            watches: image.watchers.has(address),
            locks: image.locks.has(address),
            client: 'client.1',
          }));
        }),
      trashImage: (_pool, { image: record }, context) =>
        step('trashImage', context, () => {
          const image = this.#image(record);
          if (image.trashed) return;
          if (image.watchers.size + image.locks.size > 0) throw refused('FAILED_PRECONDITION', 'IN_USE', 'it is open');
          if (image.name !== record.name) throw refused('NOT_FOUND', 'ENOENT', `there is no image ${record.name}`);
          image.trashed = true;
        }),
      restoreImage: (_pool, { catalogueEntry, image: record, newName }, context) =>
        step('restoreImage', context, () => {
          this.#putEntry(catalogueEntry);
          const image = this.#image(record);
          if (!image.trashed && image.name === newName) return;
          if (!image.trashed) throw refused('NOT_FOUND', 'ENOENT', `${record.name} is not in the trash`);
          this.#useName(newName);
          image.trashed = false;
          image.name = newName;
        }),
      purgeImage: (_pool, { image, catalogueKey }, context) =>
        step('purgeImage', context, () => this.#purge(image, catalogueKey)),
      putCatalogueEntry: (_pool, entry, context) =>
        step('putCatalogueEntry', context, () => {
          this.#putEntry(entry);
        }),
      removeCatalogueEntry: (_pool, key, context) =>
        step('removeCatalogueEntry', context, () => {
          this.catalogue.delete(key);
        }),
      listCatalogueEntries: (_pool, _range, context) =>
        step('listCatalogueEntries', context, () => ({
          entries: [...this.catalogue].map(([key, value]) => ({ key, value })),
          nextCursor: '',
        })),
      listImages: (_pool, _range, context) =>
        step('listImages', context, () => ({
          images: [...this.images.values()].map(({ name, id, trashed }) => ({ name, backendId: id, trashed })),
          nextCursor: '',
        })),
      getCatalogueEntries: (_pool, keys, context) =>
        step('getCatalogueEntries', context, () => {
          const entries = keys.flatMap((key) => {
            const value = this.catalogue.get(key);
            return value === undefined ? [] : [[key, value] as const];
          });
          return new Map(entries);
        }),
      inspectImages: (_pool, images, context) =>
        step('inspectImages', context, () => images.map((query) => this.#facts(query))),
      setChild: (_pool, { parent, childBackendId, listed }, context) =>
        step('setChild', context, () => {
          const children = this.images.get(parent.backendId)?.points.get(parent.point.backendId)?.children;
          if (children === undefined) throw refused('NOT_FOUND', 'ENOENT', `there is no point ${parent.point.name}`);
          if (listed) children.add(childBackendId);
          else if (this.images.has(childBackendId)) throw refused('FAILED_PRECONDITION', 'CHILD_EXISTS', 'it is there');
          else children.delete(childBackendId);
        }),
    };
  }

  #facts({ name, backendId, parent }: ImageQuery): ImageFacts {
    const image = backendId === '' ? this.find(name) : this.images.get(backendId);
    const nothing = { listedName: '', trashedName: '', trashTime: 0, keptUntil: 0 };
    if (image === undefined) return { ...nothing, backendId: '', headerUnreadable: false, parentListsIt: false };
    const listing = parent && this.images.get(parent.backendId)?.points.get(parent.point.backendId)?.children;
    return {
      ...nothing,
      backendId: image.id,
      ...(image.trashed ? { trashedName: image.name, trashTime: 1 } : { listedName: image.name }),
      headerUnreadable: false,
      parentListsIt: listing?.has(image.id) ?? false,
      header: {
        sizeBytes: image.sizeBytes,
        parentBackendId: image.parent?.imageId ?? '',
        parentPointBackendId: image.parent?.pointId ?? '',
        points: [...image.points.values()].map((point) => ({
          name: point.name,
          backendId: point.id,
          trashed: point.trashed,
          children: [...point.children],
          missingChildren: [...point.children].filter((id) => !this.images.has(id)),
        })),
      },
    };
  }

  #flatten(record: ImageRecord): { readonly flattened: boolean; readonly progressPercent: number } {
    const image = this.#image(record);
    if (image.parent === undefined) return { flattened: true, progressPercent: 100 };
    const { imageId, pointId } = image.parent;
    if (record.parent?.backendId !== imageId || record.parent.point.backendId !== pointId) {
      throw refused('FAILED_PRECONDITION', 'OTHER_PARENT', `${image.name} has another parent`);
    }
    const asked = (this.flattening.get(image.id) ?? 0) + 1;
    this.flattening.set(image.id, asked);
    if (asked < this.flattenQuestions) {
      return { flattened: false, progressPercent: Math.floor((asked * 100) / this.flattenQuestions) };
    }
    this.flattening.delete(image.id);
    if (this.#isOpenAbove(image)) this.violations.push(`${image.name} is flattened under somebody who has it open`);
    for (const data of [image.data, ...[...image.points.values()].map((point) => point.data)]) {
      for (const block of this.#blocksOf(image)) {
        const value = this.#readBlock(image, data, block);
        if (value !== '') data.set(block, value);
      }
    }
    this.images.get(imageId)?.points.get(pointId)?.children.delete(image.id);
    delete image.parent;
    return { flattened: true, progressPercent: 100 };
  }

  #isOpenAbove(image: FakeImage): boolean {
    if (image.watchers.size > 0) return true;
    const children = [...image.points.values()].flatMap((point) => [...point.children]);
    return children.some((id) => {
      const child = this.images.get(id);
      return child !== undefined && this.#isOpenAbove(child);
    });
  }

  /** Every block that it, or anything below it, has. */
  #blocksOf(image: FakeImage): ReadonlySet<number> {
    const blocks = new Set(image.data.keys());
    const parent = this.images.get(image.parent?.imageId ?? '');
    for (const block of parent?.points.get(image.parent?.pointId ?? '')?.data.keys() ?? []) blocks.add(block);
    for (const block of parent === undefined ? [] : this.#blocksOf(parent)) blocks.add(block);
    return blocks;
  }

  #createImage(
    request: {
      readonly catalogueEntry: CatalogueEntry;
      readonly name: string;
      readonly sizeBytes: number;
      readonly parent?: ImageParent;
      readonly pointName: string;
    },
    half: boolean,
  ): CreateImageOutcome {
    const { name, sizeBytes, parent, pointName } = request;
    this.#putEntry(request.catalogueEntry);
    let image = this.find(name);
    if (image !== undefined) {
      if (image.parent?.imageId !== parent?.backendId || image.parent?.pointId !== parent?.point.backendId) {
        return { kind: 'unusable', backendId: image.id, points: pointsOf(image), reason: 'it has no parent' };
      }
    } else {
      const source = parent === undefined ? undefined : this.#cloneSource(parent, sizeBytes);
      this.#useName(name);
      const whole = source !== undefined && !half ? source : undefined;
      image = this.#addImage(name, sizeBytes, whole);
      if (half) return { kind: 'made', backendId: image.id, sizeBytes, points: [] };
    }
    image.sizeBytes = Math.max(image.sizeBytes, sizeBytes);
    if (pointName !== '' && ![...image.points.values()].some((point) => point.name === pointName)) {
      this.#addPoint(image, pointName);
    }
    return { kind: 'made', backendId: image.id, sizeBytes: image.sizeBytes, points: pointsOf(image) };
  }

  #cloneSource(parent: ImageParent, sizeBytes: number): { readonly image: FakeImage; readonly point: FakePoint } {
    const image = this.find(parent.name);
    const point = image?.points.get(parent.point.backendId);
    if (image === undefined || image.id !== parent.backendId || image.trashed) {
      throw refused('NOT_FOUND', 'ENOENT', `there is no image ${parent.name}`);
    }
    if (point === undefined || point.trashed || point.name !== parent.point.name) {
      throw refused('NOT_FOUND', 'ENOENT', `${parent.name} has no point ${parent.point.name}`);
    }
    if (sizeBytes < point.sizeBytes) throw refused('OUT_OF_RANGE', 'SMALLER_THAN_PARENT', 'it would be smaller');
    return { image, point };
  }

  #addImage(
    name: string,
    sizeBytes: number,
    source: { readonly image: FakeImage; readonly point: FakePoint } | undefined,
  ): FakeImage {
    const id = this.#number().toString(16);
    const image: FakeImage = {
      id,
      name,
      sizeBytes,
      trashed: false,
      points: new Map(),
      data: new Map(),
      watchers: new Set(),
      locks: new Set(),
      ...(source === undefined ? {} : { parent: { imageId: source.image.id, pointId: source.point.id } }),
    };
    source?.point.children.add(id);
    this.images.set(id, image);
    return image;
  }

  #addPoint(image: FakeImage, name: string): FakePoint {
    const id = String(this.#number());
    const { sizeBytes } = image;
    const point = { name, id, sizeBytes, data: new Map(image.data), trashed: false, children: new Set<string>() };
    image.points.set(id, point);
    return point;
  }

  #removePoint(image: FakeImage, { name, backendId }: Point): void {
    const point =
      backendId === ''
        ? [...image.points.values()].find((one) => one.name === name && !one.trashed)
        : image.points.get(backendId);
    if (point === undefined) return;
    if (point.children.size > 0) point.trashed = true;
    else image.points.delete(point.id);
  }

  #purge(record: ImageRecord, catalogueKey: string): void {
    const names = [record.name, ...record.formerNames];
    const image =
      record.backendId === ''
        ? names.map((name) => this.find(name)).find((found) => found !== undefined)
        : this.images.get(record.backendId);
    if (image !== undefined) {
      if ([...image.points.values()].some((point) => point.children.size > 0)) {
        throw refused('FAILED_PRECONDITION', 'HAS_CHILDREN', `${image.name} has clones`);
      }
      if (image.watchers.size > 0) throw refused('FAILED_PRECONDITION', 'IN_USE', `${image.name} is open`);
      const recorded = new Set(record.points.map((point) => point.backendId));
      for (const point of image.points.values()) {
        if (record.backendId !== '' && !recorded.has(point.id)) {
          this.violations.push(`the purge of ${image.name} does not know its point ${point.name}`);
        }
      }
      if (record.largestSizeBytes < image.sizeBytes) this.violations.push(`the purge of ${image.name} is too small`);
      this.#leaveParent(image);
      this.images.delete(image.id);
    }
    if (catalogueKey !== '') this.catalogue.delete(catalogueKey);
  }

  /** As the agent does it: the point goes with its last clone, where nobody holds the parent's lock. */
  #leaveParent(image: FakeImage): void {
    if (image.parent === undefined) return;
    const parent = this.images.get(image.parent.imageId);
    const point = parent?.points.get(image.parent.pointId);
    point?.children.delete(image.id);
    if (parent !== undefined && point?.trashed === true && point.children.size === 0 && parent.locks.size === 0) {
      parent.points.delete(point.id);
    }
  }

  #useName(name: string): void {
    if (this.#usedNames.has(name)) this.violations.push(`the name ${name} is used twice`);
    this.#usedNames.add(name);
  }

  #putEntry({ key, value }: CatalogueEntry): void {
    this.catalogue.set(key, value);
  }

  #fence(agents: FakeAgents): FenceBackend {
    const step = <T>(method: string, context: StepContext, effect: Effect<T>) =>
      this.#step(agents, method, context, effect);
    return {
      grantAccess: (_pool: Pool, { exportId, image, ancestors }, context) =>
        step('grantAccess', context, () => {
          this.#checkAncestors(image, ancestors);
          const key = this.users.get(exportId)?.key ?? `key-${this.#number()}`;
          const user = { imageId: image.backendId, key };
          this.users.set(exportId, user);
          return new TextEncoder().encode(JSON.stringify({ user: exportId, key: user.key }));
        }),
      revokeAccess: (_pool, exportId, context) =>
        step('revokeAccess', context, () => {
          this.users.delete(exportId);
        }),
      listAccess: (_pool, context) => step('listAccess', context, () => [...this.users.keys()]),
      inspectAccess: (_pool, { exportId, image, access }, context) =>
        step('inspectAccess', context, () => {
          const user = this.users.get(exportId);
          const granted = new TextEncoder().encode(JSON.stringify({ user: exportId, key: user?.key }));
          return {
            exists: user !== undefined,
            rightsMatch: user !== undefined && user.imageId === image?.backendId,
            accessMatches: Buffer.from(access).equals(Buffer.from(granted)),
          };
        }),
      listClients: (_pool, { exportId, image }, context) =>
        step('listClients', context, () => {
          const found = image === undefined ? undefined : this.images.get(image.backendId);
          const open = [...(found?.watchers ?? []), ...(found?.locks ?? [])];
          return [...new Set([...(this.sessions.get(exportId) ?? []), ...open])];
        }),
      cutOff: (pool, { addresses, expirySeconds }, context) =>
        step('cutOff', context, () => {
          if (expirySeconds < 86_400) this.violations.push(`a cut-off of ${expirySeconds} s is too short`);
          for (const address of addresses) {
            this.cutOff.add(address);
            this.cutOffUntil.set(address, Date.now() + expirySeconds * 1000);
            this.freeze(address);
          }
          // The monitors have taken it; the pool's servers let nobody ask whether they know.
          this.#requireRights(pool);
        }),
      liftCutOff: (_pool, addresses, context) =>
        step('liftCutOff', context, () => {
          for (const address of addresses) {
            this.cutOff.delete(address);
            this.cutOffUntil.delete(address);
          }
        }),
      listCutOff: (_pool, context) => step('listCutOff', context, () => new Map(this.cutOffUntil)),
      breakLocks: (pool, { image: record, ownerAddresses }, context) =>
        step('breakLocks', context, () => {
          this.#requireRights(pool);
          const image = record.backendId === '' ? this.find(record.name) : this.images.get(record.backendId);
          const owners = ownerAddresses.filter((address) => image?.locks.has(address));
          for (const address of owners) {
            if (!this.cutOff.has(address))
              this.violations.push(`the lock of ${address} is broken before it is cut off`);
            image?.locks.delete(address);
          }
          return owners.length;
        }),
    };
  }

  #requireRights({ settings }: Pool): void {
    if (!this.closed.has(settings.cephPool)) return;
    throw new BackendError('unknown', 'UNAVAILABLE', 'Operation not permitted', { reason: 'EPERM' });
  }

  #checkAncestors(image: ImageRecord, ancestors: readonly ImageRecord[]): void {
    const wanted: string[] = [];
    for (let { parent } = this.#image(image); parent !== undefined; ) {
      wanted.push(parent.imageId);
      parent = this.images.get(parent.imageId)?.parent;
    }
    const given = ancestors.map((ancestor) => ancestor.backendId);
    if (given.join() !== wanted.join())
      this.violations.push(`access to ${image.name} names other ancestors than it has`);
  }
}

const STATUS: PoolStatus = {
  health: 'ready',
  statusMessage: '',
  capacityBytes: 2 ** 40,
  freeBytes: 2 ** 39,
  capacityTime: 1,
};

const FENCE_METHODS: ReadonlySet<string> = new Set([
  'grantAccess',
  'revokeAccess',
  'listAccess',
  'inspectAccess',
  'listClients',
  'cutOff',
  'breakLocks',
  'liftCutOff',
  'listCutOff',
]);

function isFence(method: string): boolean {
  return FENCE_METHODS.has(method);
}

function pointsOf(image: FakeImage): readonly Point[] {
  return [...image.points.values()].map(({ name, id }) => ({ name, backendId: id }));
}

function closeGate(agents: FakeAgents): void {
  agents.admitted = new Promise((resolve) => {
    agents.admit = resolve;
  });
}

function unknown(message: string): BackendError {
  return new BackendError('unknown', 'DEADLINE_EXCEEDED', message);
}

function refused(code: string, reason: string, message: string): BackendError {
  return new BackendError('permanent', code, message, { reason });
}

async function orAborted(promise: Promise<void>, context: StepContext): Promise<void> {
  const { signal } = context;
  if (signal === undefined) return promise;
  let stop: () => void = () => undefined;
  const aborted = new Promise<never>((_resolve, reject) => {
    stop = () => reject(unknown('the controller ended'));
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
  });
  aborted.catch(() => undefined);
  try {
    await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener('abort', stop);
  }
}
