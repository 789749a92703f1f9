import type { Export, Grant } from '../../model/resources.js';
import type { Caller, Changed, Mutation, Page, PageRequest, Versioned } from './call.js';

export interface GrantExport extends Mutation {
  readonly volumeId: string;
  readonly nodeId: string;
  readonly instance: string;
  readonly migration: boolean;
  readonly readOnly: boolean;
  /** 0: the default. */
  readonly lifetimeMilliseconds: number;
}

export interface RevokeGrant extends Mutation {
  readonly grantId: string;
}

export interface DirectExport {
  readonly nodeId: string;
  readonly instance: string;
  readonly migration: boolean;
  readonly readOnly: boolean;
  /** 0: the default. */
  readonly descriptorLifetimeMilliseconds: number;
}

export interface ExportVolume extends Mutation {
  readonly volumeId: string;
  /** Exactly one of grantId and direct. */
  readonly grantId: string;
  readonly direct?: DirectExport;
}

export interface Exported extends Changed<Versioned<Export>> {
  /** Empty while the export is not done. */
  readonly descriptor: Uint8Array;
  readonly descriptorExpireTime: number | undefined;
}

export interface Unexport extends Mutation {
  readonly exportId: string;
  readonly force: boolean;
}

export interface ListExports extends PageRequest {
  readonly volumeId: string;
  readonly nodeId: string;
}

export interface ExportService {
  grant(request: GrantExport, caller: Caller): Promise<Changed<Grant>>;
  /** Takes back one that was not redeemed; cuts nothing off. */
  revokeGrant(request: RevokeGrant, caller: Caller): Promise<Changed<Grant>>;
  export(request: ExportVolume, caller: Caller): Promise<Exported>;
  /** The resource is undefined when the export is gone. */
  unexport(request: Unexport, caller: Caller): Promise<Changed<Versioned<Export> | undefined>>;
  get(id: string, caller: Caller): Promise<Versioned<Export>>;
  list(request: ListExports, caller: Caller): Promise<Page<Export>>;
}
