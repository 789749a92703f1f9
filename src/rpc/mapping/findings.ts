import { invalidField } from '../../core/errors.js';
import type { Finding, FindingClass, Remedy } from '../../core/services/admin/findings.js';
import type { Repaired } from '../../core/services/types.js';
import type { Finding as ApiFinding } from '../../generated/moorage/v1/Finding.js';
import type { FindingClass as ApiFindingClass } from '../../generated/moorage/v1/FindingClass.js';
import type { Remedy as ApiRemedy } from '../../generated/moorage/v1/Remedy.js';
import type { Repaired as ApiRepaired } from '../../generated/moorage/v1/Repaired.js';
import type { RepairOutcome as ApiRepairOutcome } from '../../generated/moorage/v1/RepairOutcome.js';

const classes: Readonly<Record<FindingClass, Extract<ApiFindingClass, string>>> = {
  'pool-not-checked': 'FINDING_CLASS_POOL_NOT_CHECKED',
  'image-missing': 'FINDING_CLASS_IMAGE_MISSING',
  'image-trashed': 'FINDING_CLASS_IMAGE_TRASHED',
  'image-not-trashed': 'FINDING_CLASS_IMAGE_NOT_TRASHED',
  'image-renamed': 'FINDING_CLASS_IMAGE_RENAMED',
  'image-size': 'FINDING_CLASS_IMAGE_SIZE',
  'image-header': 'FINDING_CLASS_IMAGE_HEADER',
  'child-unlisted': 'FINDING_CLASS_CHILD_UNLISTED',
  'child-stale': 'FINDING_CLASS_CHILD_STALE',
  'point-unknown': 'FINDING_CLASS_POINT_UNKNOWN',
  'point-left': 'FINDING_CLASS_POINT_LEFT',
  'base-missing': 'FINDING_CLASS_BASE_MISSING',
  'parent-unknown': 'FINDING_CLASS_PARENT_UNKNOWN',
  'entry-missing': 'FINDING_CLASS_ENTRY_MISSING',
  'entry-differs': 'FINDING_CLASS_ENTRY_DIFFERS',
  'entry-forged': 'FINDING_CLASS_ENTRY_FORGED',
  'entry-stale': 'FINDING_CLASS_ENTRY_STALE',
  'not-in-store': 'FINDING_CLASS_NOT_IN_STORE',
  'image-orphaned': 'FINDING_CLASS_IMAGE_ORPHANED',
  'image-unknown': 'FINDING_CLASS_IMAGE_UNKNOWN',
  'export-not-in-store': 'FINDING_CLASS_EXPORT_NOT_IN_STORE',
  'export-ended': 'FINDING_CLASS_EXPORT_ENDED',
  'access-missing': 'FINDING_CLASS_ACCESS_MISSING',
  'access-differs': 'FINDING_CLASS_ACCESS_DIFFERS',
  'access-orphaned': 'FINDING_CLASS_ACCESS_ORPHANED',
  'export-list': 'FINDING_CLASS_EXPORT_LIST',
  'operation-abandoned': 'FINDING_CLASS_OPERATION_ABANDONED',
  'lock-stale': 'FINDING_CLASS_LOCK_STALE',
  'state-stale': 'FINDING_CLASS_STATE_STALE',
  'cut-off-missing': 'FINDING_CLASS_CUT_OFF_MISSING',
  'cut-off-left': 'FINDING_CLASS_CUT_OFF_LEFT',
};

const remedies: Readonly<Record<Remedy, Extract<ApiRemedy, string>>> = {
  automatic: 'REMEDY_AUTOMATIC',
  'on-request': 'REMEDY_ON_REQUEST',
  none: 'REMEDY_NONE',
};

const outcomes: Readonly<Record<Repaired['outcome'], Extract<ApiRepairOutcome, string>>> = {
  mended: 'REPAIR_OUTCOME_MENDED',
  'would-mend': 'REPAIR_OUTCOME_WOULD_MEND',
  left: 'REPAIR_OUTCOME_LEFT',
  failed: 'REPAIR_OUTCOME_FAILED',
};

/** A difference as the API says it. */
export function toFinding(finding: Finding): ApiFinding {
  return {
    class: classes[finding.class],
    poolId: finding.poolId,
    resourceId: finding.resourceId,
    imageName: finding.imageName,
    imageBackendId: finding.imageBackendId,
    description: finding.description,
    remedy: remedies[finding.remedy],
    remedyDescription: finding.remedyDescription,
  };
}

/** A difference and what came of it. */
export function toRepaired({ finding, outcome, message }: Repaired): ApiRepaired {
  return { finding: toFinding(finding), outcome: outcomes[outcome], message };
}

/** @throws MoorageError INVALID_ARGUMENT for one that this version does not know */
export function fromClasses(given: readonly (string | number)[]): FindingClass[] {
  return given.map((name) => {
    const found = Object.entries(classes).find(([, api]) => api === name);
    if (found === undefined) throw invalidField('classes', `${name} is no class of differences that Repair knows`);
    return found[0] as FindingClass;
  });
}
