//! The tables of fields.

use super::Field;
use super::Kind::{Date, DateTime, LookupList, Memo, Number, Reference, String, UsersList};

const SEVERITY: &[&str] = &["1-Low", "2-Medium", "3-High", "4-Very High", "5-Urgent"];
const STATUS: &[&str] = &["New", "Open", "Fixed", "Reopen", "Closed", "Rejected"];
const YES_OR_NO: &[&str] = &["Y", "N"];
/// The ids of the requirement types.
const TYPE: &[&str] = &["0", "1", "2", "3", "4", "5", "6", "66"];

const fn field(
    name: &'static str,
    physical: &'static str,
    label: &'static str,
    kind: super::Kind,
) -> Field {
    Field {
        name,
        physical,
        label,
        kind,
        is_required: false,
        is_editable: true,
        is_multiple: false,
        default: "",
    }
}

impl Field {
    const fn required(self) -> Self {
        Self {
            is_required: true,
            ..self
        }
    }

    const fn read_only(self) -> Self {
        Self {
            is_editable: false,
            ..self
        }
    }

    const fn multiple(self) -> Self {
        Self {
            is_multiple: true,
            ..self
        }
    }

    const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }
}

pub(super) static DEFECT: [Field; 36] = [
    field("id", "BG_BUG_ID", "Defect ID", Number).read_only(),
    field("name", "BG_SUMMARY", "Summary", String).required(),
    field("status", "BG_STATUS", "Status", LookupList(STATUS)).default("New"),
    field("severity", "BG_SEVERITY", "Severity", LookupList(SEVERITY)).required(),
    field("priority", "BG_PRIORITY", "Priority", LookupList(SEVERITY)),
    field("description", "BG_DESCRIPTION", "Description", Memo),
    field("dev-comments", "BG_DEV_COMMENTS", "Comments", Memo),
    field("owner", "BG_RESPONSIBLE", "Assigned To", UsersList),
    field("detected-by", "BG_DETECTED_BY", "Detected By", UsersList).required(),
    field(
        "creation-time",
        "BG_DETECTION_DATE",
        "Detected on Date",
        Date,
    )
    .required(),
    field("closing-date", "BG_CLOSING_DATE", "Closing Date", Date),
    field(
        "detected-in-rel",
        "BG_DETECTED_IN_REL",
        "Detected in Release",
        Reference,
    ),
    field(
        "detected-in-rcyc",
        "BG_DETECTED_IN_RCYC",
        "Detected in Cycle",
        Reference,
    ),
    field("target-rel", "BG_TARGET_REL", "Target Release", Reference),
    field("target-rcyc", "BG_TARGET_RCYC", "Target Cycle", Reference),
    field(
        "detection-version",
        "BG_DETECTION_VERSION",
        "Detected in Version",
        String,
    ),
    field(
        "planned-closing-ver",
        "BG_PLANNED_CLOSING_VERSION",
        "Planned Closing Version",
        String,
    ),
    field(
        "closing-version",
        "BG_CLOSING_VERSION",
        "Closed in Version",
        String,
    ),
    field(
        "reproducible",
        "BG_REPRODUCIBLE",
        "Reproducible",
        LookupList(YES_OR_NO),
    )
    .default("Y"),
    field(
        "estimated-fix-time",
        "BG_ESTIMATED_FIX_TIME",
        "Estimated Fix Time",
        Number,
    ),
    field(
        "actual-fix-time",
        "BG_ACTUAL_FIX_TIME",
        "Actual Fix Time",
        Number,
    ),
    field("subject", "BG_SUBJECT", "Subject", Reference),
    field("project", "BG_PROJECT", "Project", String),
    field("attachment", "BG_ATTACHMENT", "Attachment", String).read_only(),
    field("has-linkage", "BG_HAS_LINKAGE", "Has Linkage", String)
        .read_only()
        .default("N"),
    field("has-change", "BG_HAS_CHANGE", "Change Status", String).read_only(),
    field("last-modified", "BG_VTS", "Modified", DateTime).read_only(),
    field("ver-stamp", "BG_BUG_VER_STAMP", "Version Stamp", Number).read_only(),
    field("user-01", "BG_USER_01", "User 01", String),
    field("user-02", "BG_USER_02", "User 02", String),
    field("user-03", "BG_USER_03", "User 03", String),
    field("user-04", "BG_USER_04", "User 04", String),
    field("user-05", "BG_USER_05", "User 05", Number),
    field("user-06", "BG_USER_06", "User 06", Number),
    field("user-07", "BG_USER_07", "User 07", Date),
    field("user-08", "BG_USER_08", "User 08", Memo),
];

pub(super) static REQUIREMENT: [Field; 40] = [
    field("id", "RQ_REQ_ID", "Req ID", Number).read_only(),
    field("name", "RQ_REQ_NAME", "Name", String).required(),
    field(
        "type-id",
        "RQ_TYPE_ID",
        "Requirement Type",
        LookupList(TYPE),
    )
    .required(),
    field("parent-id", "RQ_FATHER_ID", "Req Parent", Number).default("0"),
    field("father-name", "RQ_FATHER_NAME", "Req Father Name", String).read_only(),
    field("hierarchical-path", "RQ_REQ_PATH", "Req Path", String).read_only(),
    field("order-id", "RQ_ORDER_ID", "Req Order ID", Number).read_only(),
    field("no-of-sons", "RQ_NO_OF_SONS", "Number of Sons", Number)
        .read_only()
        .default("0"),
    field("owner", "RQ_REQ_AUTHOR", "Author", UsersList),
    field("status", "RQ_REQ_STATUS", "Direct Cover Status", String)
        .read_only()
        .default("Not Covered"),
    field(
        "req-priority",
        "RQ_REQ_PRIORITY",
        "Priority",
        LookupList(SEVERITY),
    ),
    field("req-product", "RQ_REQ_PRODUCT", "Product", String),
    field("req-reviewed", "RQ_REQ_REVIEWED", "Reviewed", String).default("Not Reviewed"),
    field("description", "RQ_REQ_COMMENT", "Description", Memo),
    field("comments", "RQ_DEV_COMMENTS", "Comments", Memo),
    field("req-rich-content", "RQ_REQ_RICH_CONTENT", "Rich Text", Memo),
    field(
        "has-rich-content",
        "RQ_HAS_RICH_CONTENT",
        "Has Rich Content",
        String,
    )
    .read_only()
    .default("N"),
    field("target-rel", "RQ_TARGET_REL", "Target Release", Reference).multiple(),
    field("target-rcyc", "RQ_TARGET_RCYC", "Target Cycle", Reference).multiple(),
    field("creation-time", "RQ_REQ_DATE", "Creation Date", Date).read_only(),
    field("attachment", "RQ_ATTACHMENT", "Attachment", String).read_only(),
    field("has-linkage", "RQ_HAS_LINKAGE", "Has Linkage", String)
        .read_only()
        .default("N"),
    field("last-modified", "RQ_VTS", "Modified", DateTime).read_only(),
    field("ver-stamp", "RQ_REQ_VER_STAMP", "Version Stamp", Number).read_only(),
    field("vc-status", "RQ_VC_STATUS", "Version Status", String).read_only(),
    field(
        "vc-version-number",
        "RQ_VC_VERSION_NUMBER",
        "Version Number",
        Number,
    )
    .read_only(),
    field(
        "check-out-user-name",
        "RQ_VC_CHECKOUT_USER_NAME",
        "Checked Out By",
        UsersList,
    )
    .read_only(),
    field(
        "vc-checkout-date",
        "RQ_VC_CHECKOUT_DATE",
        "Version Check Out Date",
        Date,
    )
    .read_only(),
    field(
        "vc-checkout-comments",
        "RQ_VC_CHECKOUT_COMMENTS",
        "Version Check Out Comments",
        Memo,
    )
    .read_only(),
    field(
        "vc-checkin-date",
        "RQ_VC_CHECKIN_DATE",
        "Version Date",
        Date,
    )
    .read_only(),
    field(
        "vc-checkin-user-name",
        "RQ_VC_CHECKIN_USER_NAME",
        "Version Owner",
        UsersList,
    )
    .read_only(),
    field(
        "vc-checkin-comments",
        "RQ_VC_CHECKIN_COMMENTS",
        "Version Comments",
        Memo,
    )
    .read_only(),
    field("user-01", "RQ_USER_01", "User 01", String),
    field("user-02", "RQ_USER_02", "User 02", String),
    field("user-03", "RQ_USER_03", "User 03", String),
    field("user-04", "RQ_USER_04", "User 04", String),
    field("user-05", "RQ_USER_05", "User 05", Number),
    field("user-06", "RQ_USER_06", "User 06", Number),
    field("user-07", "RQ_USER_07", "User 07", Date),
    field("user-08", "RQ_USER_08", "User 08", Memo),
];

pub(super) static RELEASE: [Field; 12] = [
    field("id", "REL_ID", "Release ID", Number).read_only(),
    field("name", "REL_NAME", "Name", String).required(),
    field("parent-id", "REL_PARENT_ID", "Release Folder ID", Number).required(),
    field("start-date", "REL_START_DATE", "Start Date", Date).required(),
    field("end-date", "REL_END_DATE", "End Date", Date).required(),
    field("description", "REL_DESCRIPTION", "Description", Memo),
    field("attachment", "REL_HAS_ATTACHMENTS", "Attachment", String).read_only(),
    field("last-modified", "REL_VTS", "Modified", DateTime).read_only(),
    field("ver-stamp", "REL_VER_STAMP", "Version Stamp", Number).read_only(),
    field("user-01", "REL_USER_01", "User 01", String),
    field("user-02", "REL_USER_02", "User 02", String),
    field("user-03", "REL_USER_03", "User 03", Number),
];

pub(super) static RELEASE_CYCLE: [Field; 12] = [
    field("id", "RCYC_ID", "Cycle ID", Number).read_only(),
    field("name", "RCYC_NAME", "Name", String).required(),
    field("parent-id", "RCYC_PARENT_ID", "Release ID", Number).required(),
    field("start-date", "RCYC_START_DATE", "Start Date", Date).required(),
    field("end-date", "RCYC_END_DATE", "End Date", Date).required(),
    field("description", "RCYC_DESCRIPTION", "Description", Memo),
    field("attachment", "RCYC_HAS_ATTACHMENTS", "Attachment", String).read_only(),
    field("last-modified", "RCYC_VTS", "Modified", DateTime).read_only(),
    field("ver-stamp", "RCYC_VER_STAMP", "Version Stamp", Number).read_only(),
    field("user-01", "RCYC_USER_01", "User 01", String),
    field("user-02", "RCYC_USER_02", "User 02", String),
    field("user-03", "RCYC_USER_03", "User 03", Number),
];

pub(super) static RELEASE_FOLDER: [Field; 6] = [
    field("id", "RF_ID", "Folder ID", Number).read_only(),
    field("name", "RF_NAME", "Name", String).required(),
    field("parent-id", "RF_PARENT_ID", "Parent ID", Number).required(),
    field("description", "RF_DESCRIPTION", "Description", Memo),
    field("attachment", "RF_HAS_ATTACHMENTS", "Attachment", String).read_only(),
    field("ver-stamp", "RF_VER_STAMP", "Version Stamp", Number).read_only(),
];
