import type { CreateImageResponse__Output } from '../../../src/generated/moorage/backend/v1/CreateImageResponse.js';
import type { Image__Output } from '../../../src/generated/moorage/backend/v1/Image.js';
import type { Point__Output } from '../../../src/generated/moorage/backend/v1/Point.js';
import { type ConformanceClient, freshName } from './client.js';

export const MEBIBYTE = 2 ** 20;
/** Size of the suite's images, in bytes. */
export const SIZE = 16 * MEBIBYTE;

/** What CreateImage is asked for. */
export interface Wanted {
  readonly name?: string;
  readonly size?: number;
  readonly parent?: Image__Output;
  /** Of the parent; default: its first. */
  readonly point?: Point__Output;
  readonly pointName?: string;
}

/** Makes images through the agent and purges them at the end. */
export class Images {
  readonly #client: ConformanceClient;
  readonly #made: Image__Output[] = [];

  constructor(client: ConformanceClient) {
    this.#client = client;
  }

  /** Asks for an image. */
  async ask(wanted: Wanted = {}): Promise<CreateImageResponse__Output> {
    const name = wanted.name ?? freshName();
    const point = wanted.point ?? wanted.parent?.points[0];
    const parent =
      wanted.parent === undefined
        ? null
        : { name: wanted.parent.name, backendId: wanted.parent.backendId, point: point ?? null };
    const answer = await this.#client.data('CreateImage', {
      catalogueEntry: { key: name, value: Buffer.from(`entry of ${name}`) },
      name,
      sizeBytes: String(wanted.size ?? SIZE),
      parent,
      pointName: wanted.pointName ?? '',
    });
    const image = answer.image ?? answer.unusable?.image;
    if (image && !this.#made.some((each) => each.name === image.name)) this.#made.push(image);
    return answer;
  }

  /** Makes an image. */
  async make(wanted: Wanted = {}): Promise<Image__Output> {
    const answer = await this.ask(wanted);
    if (answer.outcome !== 'image' || !answer.image) throw new Error(`unusable: ${answer.unusable?.reason}`);
    return answer.image;
  }

  /** Runs work with a connection of its own. */
  async connected<Result>(use: (connectionId: string) => Promise<Result>): Promise<Result> {
    const { connectionId } = await this.#client.data('OpenConnection', {});
    try {
      return await use(connectionId);
    } finally {
      await this.#client.data('CloseConnection', { connectionId });
    }
  }

  /** Takes a point of an image. */
  async point(image: Image__Output, pointName = freshName('pt')): Promise<Point__Output> {
    const { point } = await this.connected((connectionId) =>
      this.#client.data('TakePoint', { connectionId, image, pointName }),
    );
    if (!point) throw new Error('TakePoint answered without a point');
    return point;
  }

  /** Everything that is listed under a name. */
  async listed(name: string): Promise<readonly { readonly trashed: boolean; readonly backendId: string }[]> {
    const found: { trashed: boolean; backendId: string }[] = [];
    for (let cursor = ''; ; ) {
      const page = await this.#client.data('ListImages', { cursor, limit: 100 });
      found.push(...page.images.filter((image) => image.name === name));
      cursor = page.nextCursor;
      if (cursor === '') return found;
    }
  }

  /** The catalogue's value under a key. */
  async entry(key: string): Promise<Buffer | undefined> {
    for (let cursor = ''; ; ) {
      const page = await this.#client.data('ListCatalogueEntries', { cursor, limit: 100 });
      const found = page.entries.find((entry) => entry.key === key);
      if (found !== undefined) return found.value;
      cursor = page.nextCursor;
      if (cursor === '') return undefined;
    }
  }

  purge(image: Image__Output, more: readonly Point__Output[] = []): Promise<unknown> {
    return this.#client.data('PurgeImage', {
      image: { ...image, points: [...image.points, ...more] },
      formerNames: [image.name],
      catalogueKey: image.name,
    });
  }

  /** Purges what was made, the newest first: clones before their parents. */
  async purgeAll(): Promise<void> {
    const failures: unknown[] = [];
    for (const image of this.#made.reverse()) await this.purge(image).catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw new AggregateError(failures, `not purged: ${failures.map(String).join('; ')}`);
  }
}
