//! What the tables must hold in the end: the events applied one by one in the order of their versions.
//! Knows nothing of batches, upserts or orders of arrival.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::schema::{EventType, Kind};
use super::{Event, micros};

/// The fields that Sluice chose: of each type, and of the object `updates` of those that have one.
static CHOSEN: LazyLock<BTreeMap<String, [BTreeSet<String>; 2]>> = LazyLock::new(|| {
    let names =
        |fields: &[super::schema::Field]| fields.iter().map(|field| field.name.clone()).collect();
    let chosen = |found: EventType| {
        let updates = found.fields.iter().find_map(|field| match &field.kind {
            Kind::Updates(fields) => Some(names(fields)),
            _ => None,
        });
        (
            found.name,
            [names(&found.fields), updates.unwrap_or_default()],
        )
    };
    EventType::all().into_iter().map(chosen).collect()
});

/// Table and row, as JSON without NULLs: amounts are texts without idle zeros, times are microseconds since 1970.
pub type Rows = BTreeSet<(String, String)>;

pub type Row = BTreeMap<String, Value>;

/// Where the ids of these fields have a row from the first event that names them.
const REFERENCES: [(&str, &str, &[&str]); 7] = [
    (
        "users",
        "user_id",
        &[
            "userId",
            "authorId",
            "followerId",
            "followeeId",
            "blockerId",
            "blockedId",
            "fromUserId",
            "toUserId",
            "senderId",
            "recipientId",
        ],
    ),
    ("posts", "post_id", &["postId"]),
    ("skills", "skill_id", &["skillId"]),
    ("comments", "comment_id", &["commentId", "parentCommentId"]),
    ("payments", "transaction_id", &["transactionId"]),
    ("messages", "message_id", &["messageId"]),
    ("subscriptions", "subscription_id", &["subscriptionId"]),
];

pub fn rows_after<'e>(events: impl IntoIterator<Item = &'e Event>) -> Rows {
    let mut events: Vec<&Event> = events.into_iter().collect();
    events.sort_by_key(|event| (event.time_us, event.offset, event.tie));
    let mut tables = Tables::default();
    for event in &events {
        tables.apply(event);
    }
    // Final, whatever came before or after.
    for event in events.iter().rev() {
        let key = match event.event_type.as_str() {
            "user.deleted" => ("users", "user_id", "userId"),
            "content.post.deleted" => ("posts", "post_id", "postId"),
            _ => continue,
        };
        let (table, column, field) = key;
        let id = id(&event.data[field]);
        let row = tables.row(table, &[(column, id.clone())]);
        *row = BTreeMap::from([
            (column.to_owned(), id),
            ("deleted_at".to_owned(), json!(event.time_us)),
        ]);
    }
    tables.rows()
}

/// A row as it is compared: whatever order its objects were written in.
pub fn line(row: &Row) -> String {
    let mut value = json!(row);
    value.sort_all_objects();
    value.to_string()
}

#[derive(Default)]
struct Tables(BTreeMap<&'static str, BTreeMap<String, Row>>);

impl Tables {
    /// The row with this key, made where there is none.
    fn row(&mut self, table: &'static str, key: &[(&str, Value)]) -> &mut Row {
        let key: Row = key
            .iter()
            .map(|(column, value)| ((*column).to_owned(), value.clone()))
            .collect();
        let name = json!(key).to_string();
        self.0.entry(table).or_default().entry(name).or_insert(key)
    }

    fn rows(&self) -> Rows {
        let row = |table: &str, row: &Row| (table.to_owned(), line(row));
        self.0
            .iter()
            .flat_map(|(table, rows)| rows.values().map(move |found| row(table, found)))
            .collect()
    }

    fn apply(&mut self, event: &Event) {
        let data = event.data.as_object().expect("data is an object");
        let at = json!(event.time_us);
        for (table, column, fields) in REFERENCES {
            for field in fields {
                if let Some(value) = data.get(*field).filter(|value| !value.is_null()) {
                    self.row(table, &[(column, id(value))]);
                }
            }
        }
        let key = |column, field: &str| (column, id(&data[field]));
        let extra = extra(event);
        let mut write = |table, keys: &[(&str, Value)], values: &[(&str, Value)]| {
            let row = self.row(table, keys);
            // What changes fields of a row leaves the other ones as they are; all else writes the row as a whole.
            write_extra(row, &extra, changes_fields(&event.event_type));
            for (column, value) in values {
                match value {
                    Value::Null => row.remove(*column),
                    value => row.insert((*column).to_owned(), value.clone()),
                };
            }
        };
        let get = |field: &str| data.get(field).cloned().unwrap_or_default();
        let ids = |field: &str| {
            if get(field).is_null() {
                Value::Null
            } else {
                id(&get(field))
            }
        };
        let amount = |field: &str| decimal(&get(field));
        let time = |field: &str| {
            get(field)
                .as_str()
                .map_or(Value::Null, |text| json!(micros(text)))
        };
        let list = |field: &str| list(&get(field));

        match event.event_type.as_str() {
            "user.created" => write(
                "users",
                &[key("user_id", "userId")],
                &[
                    ("username", get("username")),
                    ("email", get("email")),
                    ("role", get("role")),
                    ("display_name", get("displayName")),
                    ("bio", get("bio")),
                    ("avatar_url", get("avatarUrl")),
                    ("created_at", at),
                ],
            ),
            "user.updated" => write("users", &[key("user_id", "userId")], &updates(data)),
            // A deletion makes the row at most; it ends it once all are applied.
            "user.deleted" | "content.post.deleted" => {}
            "user.followed" | "user.unfollowed" => write(
                "follows",
                &[
                    key("follower_id", "followerId"),
                    key("followee_id", "followeeId"),
                ],
                &[
                    ("following", json!(event.event_type == "user.followed")),
                    ("changed_at", at),
                ],
            ),
            "user.blocked" | "user.unblocked" => write(
                "blocks",
                &[
                    key("blocker_id", "blockerId"),
                    key("blocked_id", "blockedId"),
                ],
                &[
                    ("blocking", json!(event.event_type == "user.blocked")),
                    ("changed_at", at),
                ],
            ),
            "content.post.created" => write(
                "posts",
                &[key("post_id", "postId")],
                &[
                    ("author_id", ids("authorId")),
                    ("content", get("content")),
                    ("media_urls", list("mediaUrls")),
                    ("visibility", get("visibility")),
                    ("created_at", at),
                ],
            ),
            "content.post.updated" => write("posts", &[key("post_id", "postId")], &updates(data)),
            "content.post.liked" => write(
                "post_likes",
                &[key("post_id", "postId"), key("user_id", "userId")],
                &[("liked", json!(true)), ("changed_at", at)],
            ),
            "content.comment.created" => write(
                "comments",
                &[key("comment_id", "commentId")],
                &[
                    ("post_id", ids("postId")),
                    ("author_id", ids("authorId")),
                    ("parent_comment_id", ids("parentCommentId")),
                    ("content", get("content")),
                    ("created_at", at),
                ],
            ),
            "content.story.created" => write(
                "stories",
                &[key("story_id", "storyId")],
                &[
                    ("author_id", ids("authorId")),
                    ("media_url", get("mediaUrl")),
                    ("caption", get("caption")),
                    ("visibility", get("visibility")),
                    ("expires_at", time("expiresAt")),
                    ("created_at", at),
                ],
            ),
            "content.video.created" => write(
                "videos",
                &[key("video_id", "videoId")],
                &[
                    ("author_id", ids("authorId")),
                    ("title", get("title")),
                    ("description", get("description")),
                    ("video_url", get("videoUrl")),
                    ("thumbnail_url", get("thumbnailUrl")),
                    ("duration_seconds", get("durationSeconds")),
                    ("visibility", get("visibility")),
                    ("created_at", at),
                ],
            ),
            "payment.completed" => write(
                "payments",
                &[key("transaction_id", "transactionId")],
                &[
                    ("user_id", ids("userId")),
                    ("recipient_id", ids("recipientId")),
                    ("reference_id", ids("referenceId")),
                    ("type", get("type")),
                    ("amount", amount("amount")),
                    ("currency", get("currency")),
                    ("completed_at", at),
                ],
            ),
            "payment.tip.created" => write(
                "tips",
                &[key("tip_id", "tipId")],
                &[
                    ("from_user_id", ids("fromUserId")),
                    ("to_user_id", ids("toUserId")),
                    ("post_id", ids("postId")),
                    ("transaction_id", ids("transactionId")),
                    ("amount", amount("amount")),
                    ("currency", get("currency")),
                    ("message", get("message")),
                    ("created_at", at),
                ],
            ),
            "payment.refunded" => write(
                "refunds",
                &[key("refund_id", "refundId")],
                &[
                    ("transaction_id", ids("transactionId")),
                    ("amount", amount("amount")),
                    ("currency", get("currency")),
                    ("reason", get("reason")),
                    ("refunded_at", at),
                ],
            ),
            "wallet.updated" => {
                let pending = if get("pending").is_null() {
                    json!("0")
                } else {
                    amount("pending")
                };
                write(
                    "wallets",
                    &[key("user_id", "userId"), key("currency", "currency")],
                    &[
                        ("available", amount("available")),
                        ("pending", pending),
                        ("updated_at", at),
                    ],
                );
            }
            "withdrawal.requested" => write(
                "withdrawals",
                &[key("withdrawal_id", "withdrawalId")],
                &[
                    ("user_id", ids("userId")),
                    ("amount", amount("amount")),
                    ("currency", get("currency")),
                    ("destination", get("destination")),
                    ("requested_at", at),
                ],
            ),
            "subscription.created" => write(
                "subscriptions",
                &[key("subscription_id", "subscriptionId")],
                &[
                    ("user_id", ids("userId")),
                    ("tier_id", ids("tierId")),
                    ("status", get("status")),
                    ("status_reason", Value::Null),
                    ("status_at", at.clone()),
                    ("period_start", time("periodStart")),
                    ("period_end", time("periodEnd")),
                    ("created_at", at),
                ],
            ),
            "subscription.renewed" => write(
                "subscriptions",
                &[key("subscription_id", "subscriptionId")],
                &[
                    ("status", json!("ACTIVE")),
                    ("status_reason", Value::Null),
                    ("status_at", at),
                    ("period_start", time("periodStart")),
                    ("period_end", time("periodEnd")),
                ],
            ),
            "subscription.canceled" | "subscription.expired" => {
                let is_canceled = event.event_type == "subscription.canceled";
                write(
                    "subscriptions",
                    &[key("subscription_id", "subscriptionId")],
                    &[
                        (
                            "status",
                            json!(if is_canceled { "CANCELED" } else { "EXPIRED" }),
                        ),
                        ("status_reason", get("reason")),
                        ("status_at", at),
                    ],
                );
            }
            "skill.created" => write(
                "skills",
                &[key("skill_id", "skillId")],
                &[
                    ("name", get("name")),
                    ("category", get("category")),
                    ("description", get("description")),
                    ("created_at", at),
                ],
            ),
            "skill.updated" => write("skills", &[key("skill_id", "skillId")], &updates(data)),
            "skill.user.added" => write(
                "user_skills",
                &[key("user_id", "userId"), key("skill_id", "skillId")],
                &[
                    ("held", json!(true)),
                    ("level", get("level")),
                    ("changed_at", at),
                ],
            ),
            "skill.user.removed" => write(
                "user_skills",
                &[key("user_id", "userId"), key("skill_id", "skillId")],
                &[
                    ("held", json!(false)),
                    ("level", Value::Null),
                    ("changed_at", at),
                ],
            ),
            "notification.created" => write(
                "notifications",
                &[key("notification_id", "notificationId")],
                &[
                    ("user_id", ids("userId")),
                    ("type", get("type")),
                    ("title", get("title")),
                    ("body", get("body")),
                    ("data", get("data")),
                    ("read_at", time("readAt")),
                    ("created_at", at),
                ],
            ),
            "message.created" => write(
                "messages",
                &[key("message_id", "messageId")],
                &[
                    ("conversation_id", ids("conversationId")),
                    ("sender_id", ids("senderId")),
                    ("recipient_id", ids("recipientId")),
                    ("content", get("content")),
                    ("media_urls", list("mediaUrls")),
                    ("created_at", at),
                ],
            ),
            "message.read" => {
                let read_at = if get("readAt").is_null() {
                    at
                } else {
                    time("readAt")
                };
                let row = self.row(
                    "message_reads",
                    &[key("message_id", "messageId"), key("user_id", "userId")],
                );
                write_extra(row, &extra, true);
                let known = row
                    .entry("read_at".to_owned())
                    .or_insert_with(|| read_at.clone());
                if read_at.as_i64() < known.as_i64() {
                    *known = read_at;
                }
            }
            other => panic!("the model does not know {other}"),
        }
    }
}

/// What was sent beside the fields that Sluice chose.
fn extra(event: &Event) -> Map<String, Value> {
    let [chosen, chosen_in_updates] = &CHOSEN[&event.event_type];
    let rest = |object: &Value, chosen: &BTreeSet<String>| -> Map<String, Value> {
        let fields = object.as_object().into_iter().flatten();
        let rest = fields.filter(|(name, _)| !chosen.contains(*name));
        rest.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    let mut extra = rest(&event.data, chosen);
    if chosen.contains("updates") {
        extra.extend(rest(&event.data["updates"], chosen_in_updates));
    }
    extra
}

fn changes_fields(event_type: &str) -> bool {
    let ends = [
        "subscription.renewed",
        "subscription.canceled",
        "subscription.expired",
    ];
    // A wallet is replaced as a whole.
    ends.contains(&event_type) || event_type.ends_with(".updated") && event_type != "wallet.updated"
}

fn write_extra(row: &mut Row, extra: &Map<String, Value>, keeps_others: bool) {
    let known = row.remove("extra").filter(|_| keeps_others);
    let mut all = known
        .and_then(|known| known.as_object().cloned())
        .unwrap_or_default();
    all.extend(extra.clone());
    if !all.is_empty() {
        row.insert("extra".to_owned(), Value::Object(all));
    }
}

/// An id as its text, whichever way it was spelled.
fn id(value: &Value) -> Value {
    match value {
        Value::String(_) => value.clone(),
        other => json!(other.to_string()),
    }
}

fn list(value: &Value) -> Value {
    if value.is_null() {
        json!([])
    } else {
        value.clone()
    }
}

/// Without idle zeros, as `trim_scale` writes it.
fn decimal(value: &Value) -> Value {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    json!(match text.split_once('.') {
        Some((whole, fraction)) => {
            let fraction = fraction.trim_end_matches('0');
            if fraction.is_empty() {
                whole.to_owned()
            } else {
                format!("{whole}.{fraction}")
            }
        }
        None => text,
    })
}

/// Which columns the object `updates` changes, and to what.
fn updates(data: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    let updates = data["updates"].as_object().expect("updates is an object");
    let column = |(field, value): (&String, &Value)| match field.as_str() {
        "username" => Some(("username", value.clone())),
        "email" => Some(("email", value.clone())),
        "role" => Some(("role", value.clone())),
        "displayName" => Some(("display_name", value.clone())),
        "bio" => Some(("bio", value.clone())),
        "avatarUrl" => Some(("avatar_url", value.clone())),
        "content" => Some(("content", value.clone())),
        "mediaUrls" => Some(("media_urls", list(value))),
        "visibility" => Some(("visibility", value.clone())),
        "name" => Some(("name", value.clone())),
        "category" => Some(("category", value.clone())),
        "description" => Some(("description", value.clone())),
        // To be found in `extra`.
        _ => None,
    };
    updates.iter().filter_map(column).collect()
}
