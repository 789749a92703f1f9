import { z } from 'zod';

/** Version of the payload inside the box. */
export const PAYLOAD_VERSION = 1;

const id = (prefix: string) =>
  z.string().regex(new RegExp(`^${prefix}-[0-9a-f]{17}$`), `an id "${prefix}-" and 17 hex digits`);

/** RFC 3339 with an offset. */
const timestamp = z.iso.datetime({ offset: true });

/** What only the connector understands. */
const opaque = z.record(z.string(), z.json());

/**
 * What a descriptor says, inside the box. Fields that this version does not know are dropped, so that a later controller
 * can add optional ones; a change that older nodes must not ignore raises `version`.
 */
export const descriptorPayloadSchema = z.object({
  version: z.literal(PAYLOAD_VERSION),
  /** The export that this descriptor is for. */
  export_id: id('exp'),
  volume_id: id('vol'),
  /** The node's name in the API: a free name, not an id with a prefix. */
  node_id: z.string().min(1).max(253),
  /** Size of the volume in bytes when the descriptor was made. */
  size_bytes: z.int().positive(),
  read_only: z.boolean(),
  /** Whether other nodes may have the volume open for writing too. */
  multi_attach: z.boolean().optional(),
  issued_at: timestamp,
  /** From then on `connect` refuses it; disconnect, detach and extend do not. */
  expires_at: timestamp,
  /** Name of the connector in storage-utils. */
  connector: z.string().regex(/^[a-z][a-z0-9-]{0,31}$/, 'a name of lower-case letters, digits and "-"'),
  /** What the pool's backend says for every descriptor of the pool. */
  pool: opaque,
  /** The image on the backend; its name is not the volume's id once a step was done again. */
  image: z.object({ name: z.string().min(1).max(255) }),
  /** What gives access to the image; holds secrets. */
  access: opaque,
});

/** See {@link descriptorPayloadSchema}. */
export type DescriptorPayload = z.infer<typeof descriptorPayloadSchema>;

// Ceph's names, and libvirt splits "pool/image" at the slash and "image@snapshot" at the sign.
const cephName = z
  .string()
  .min(1)
  .max(255)
  .regex(/^[^/@\s\p{Cc}]+$/u, 'a name without "/", "@", white space and control characters');

/** `host:port`, an IPv6 address in brackets. */
const monitor = z
  .string()
  .max(300)
  .regex(/^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$/, 'host:port, an IPv6 address in brackets');

/** `pool` of a descriptor whose connector is "rbd". */
export const rbdPoolSchema = z.object({
  /** The cluster's fsid. */
  cluster_id: z.guid(),
  /** Name of the Ceph pool. */
  ceph_pool: cephName,
  /** Every monitor of the cluster. */
  monitors: z.array(monitor).min(1).max(31),
});

/** See {@link rbdPoolSchema}. */
export type RbdPool = z.infer<typeof rbdPoolSchema>;

/** A cephx user's name without "client.". */
const cephUser = z
  .string()
  .min(1)
  .max(255)
  .regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/, 'a cephx user without "client.", of letters, digits, ".", "_" and "-"');

/** `access` of a descriptor whose connector is "rbd". */
export const rbdAccessSchema = z.discriminatedUnion('mode', [
  /** A cephx user of this export's own; its key in base64, as Ceph writes it. */
  z.object({
    mode: z.literal('managed'),
    user: cephUser,
    key: z.string().regex(/^[A-Za-z0-9+/]{38}==$/, "a cephx key in Ceph's base64"),
  }),
  /** A user of the node's, whose keyring lies on the node. */
  z.object({ mode: z.literal('keyring'), user: cephUser }),
]);

/** See {@link rbdAccessSchema}. */
export type RbdAccess = z.infer<typeof rbdAccessSchema>;

/** One line that names each wrong field and what would be right; Zod's issues hold no input, so neither does this. */
export function describeIssues(error: z.ZodError): string {
  return error.issues.map((issue) => `${issue.path.map(String).join('.') || 'it'}: ${issue.message}`).join('; ');
}
