//! Keys, values and transactions as JSON. Bytes that are UTF-8 stand there as text; others under the same name with
//! `_base64` behind it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use kv::command::{
    Compare, CompareTarget, DeleteRange, KeyRange, KeyValue, Put, Range, RangeResult, Relation, Txn,
    TxnOperation, TxnResult,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Puts `bytes` into `object` as `name` or `name_base64`.
pub(crate) fn insert_bytes(object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

/// A pair.
pub(crate) fn key_value(kv: &KeyValue, with_value: bool) -> Map<String, Value> {
    let mut object = Map::new();
    insert_bytes(&mut object, "key", &kv.key);
    if with_value {
        insert_bytes(&mut object, "value", &kv.value);
    }
    object.insert("create_revision".into(), kv.create_revision.into());
    object.insert("mod_revision".into(), kv.mod_revision.into());
    object.insert("version".into(), kv.version.into());
    object
}

pub(crate) fn key_values(kvs: &[KeyValue], with_values: bool) -> Value {
    kvs.iter().map(|kv| Value::Object(key_value(kv, with_values))).collect()
}

pub(crate) fn range_result(result: &RangeResult, with_values: bool) -> Value {
    json!({
        "revision": result.revision,
        "count": result.count,
        "more": result.more,
        "kvs": key_values(&result.kvs, with_values),
    })
}

pub(crate) fn txn_result(result: &TxnResult) -> Value {
    match result {
        TxnResult::Put { prev_kv: None } => json!({ "put": {} }),
        TxnResult::Put { prev_kv: Some(kv) } => json!({ "put": { "prev_kv": key_value(kv, true) } }),
        TxnResult::Deleted { count, prev_kvs } if prev_kvs.is_empty() => {
            json!({ "delete": { "deleted": count } })
        }
        TxnResult::Deleted { count, prev_kvs } => {
            json!({ "delete": { "deleted": count, "prev_kvs": key_values(prev_kvs, true) } })
        }
        TxnResult::Range(result) => json!({ "range": range_result(result, true) }),
    }
}

/// A transaction, as it is read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TxnText {
    #[serde(default)]
    compares: Vec<CompareText>,
    #[serde(default)]
    success: Vec<OperationText>,
    #[serde(default)]
    failure: Vec<OperationText>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CompareText {
    key: Option<String>,
    key_base64: Option<String>,
    #[serde(default)]
    relation: RelationText,
    value: Option<String>,
    value_base64: Option<String>,
    version: Option<u64>,
    create_revision: Option<u64>,
    mod_revision: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum RelationText {
    #[default]
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = ">")]
    Greater,
    #[serde(rename = "<")]
    Less,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum OperationText {
    Put(PutText),
    Delete(DeleteText),
    Range(RangeText),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PutText {
    key: Option<String>,
    key_base64: Option<String>,
    value: Option<String>,
    value_base64: Option<String>,
    #[serde(default)]
    prev_kv: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteText {
    key: Option<String>,
    key_base64: Option<String>,
    prefix: Option<String>,
    prefix_base64: Option<String>,
    end: Option<String>,
    end_base64: Option<String>,
    #[serde(default)]
    prev_kv: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeText {
    key: Option<String>,
    key_base64: Option<String>,
    prefix: Option<String>,
    prefix_base64: Option<String>,
    end: Option<String>,
    end_base64: Option<String>,
    revision: Option<u64>,
    #[serde(default)]
    limit: u64,
    #[serde(default)]
    keys_only: bool,
    #[serde(default)]
    count_only: bool,
}

/// Reads a transaction.
pub(crate) fn parse_txn(text: &str) -> Result<Txn, String> {
    let txn: TxnText = serde_json::from_str(text).map_err(|e| format!("the transaction on stdin: {e}"))?;
    let convert = || {
        Ok(Txn {
            compares: txn.compares.into_iter().map(compare).collect::<Result<_, String>>()?,
            success: txn.success.into_iter().map(operation).collect::<Result<_, String>>()?,
            failure: txn.failure.into_iter().map(operation).collect::<Result<_, String>>()?,
        })
    };
    convert().map_err(|e: String| format!("the transaction on stdin: {e}"))
}

/// Bytes given as text or in base64, if they are given at all.
fn bytes(name: &str, text: Option<String>, base64: Option<String>) -> Result<Option<Bytes>, String> {
    match (text, base64) {
        (Some(_), Some(_)) => Err(format!("both `{name}` and `{name}_base64` are given")),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => {
            STANDARD.decode(&base64).map(|b| Some(b.into())).map_err(|e| format!("`{name}_base64`: {e}"))
        }
        (None, None) => Ok(None),
    }
}

fn needed(name: &str, text: Option<String>, base64: Option<String>) -> Result<Bytes, String> {
    bytes(name, text, base64)?.ok_or_else(|| format!("missing `{name}` (or `{name}_base64`)"))
}

fn key_range(key: Option<Bytes>, prefix: Option<Bytes>, end: Option<Bytes>) -> Result<KeyRange, String> {
    match (key, prefix, end) {
        (Some(key), None, None) => Ok(KeyRange::Key(key)),
        (Some(start), None, Some(end)) => Ok(KeyRange::HalfOpen { start, end }),
        (None, Some(prefix), None) => Ok(KeyRange::Prefix(prefix)),
        _ => Err("a range has `key`, or `key` and `end`, or `prefix`".to_owned()),
    }
}

fn compare(text: CompareText) -> Result<Compare, String> {
    let value = bytes("value", text.value, text.value_base64)?;
    let target = match (value, text.version, text.create_revision, text.mod_revision) {
        (Some(value), None, None, None) => CompareTarget::Value(value),
        (None, Some(version), None, None) => CompareTarget::Version(version),
        (None, None, Some(revision), None) => CompareTarget::CreateRevision(revision),
        (None, None, None, Some(revision)) => CompareTarget::ModRevision(revision),
        _ => {
            return Err(
                "a compare has one of `value`, `version`, `create_revision` and `mod_revision`".to_owned()
            );
        }
    };
    let relation = match text.relation {
        RelationText::Equal => Relation::Equal,
        RelationText::NotEqual => Relation::NotEqual,
        RelationText::Greater => Relation::Greater,
        RelationText::Less => Relation::Less,
    };
    Ok(Compare { key: needed("key", text.key, text.key_base64)?, relation, target })
}

fn operation(text: OperationText) -> Result<TxnOperation, String> {
    Ok(match text {
        OperationText::Put(put) => TxnOperation::Put(Put {
            key: needed("key", put.key, put.key_base64)?,
            value: needed("value", put.value, put.value_base64)?,
            prev_kv: put.prev_kv,
        }),
        OperationText::Delete(delete) => TxnOperation::DeleteRange(DeleteRange {
            range: key_range(
                bytes("key", delete.key, delete.key_base64)?,
                bytes("prefix", delete.prefix, delete.prefix_base64)?,
                bytes("end", delete.end, delete.end_base64)?,
            )?,
            prev_kv: delete.prev_kv,
        }),
        OperationText::Range(range) => TxnOperation::Range(Range {
            range: key_range(
                bytes("key", range.key, range.key_base64)?,
                bytes("prefix", range.prefix, range.prefix_base64)?,
                bytes("end", range.end, range.end_base64)?,
            )?,
            revision: range.revision,
            limit: range.limit,
            keys_only: range.keys_only,
            count_only: range.count_only,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_text_are_given_in_base64() {
        let kv = KeyValue {
            key: Bytes::from_static(b"k\xff"),
            value: Bytes::from_static(b"v"),
            create_revision: 1,
            mod_revision: 2,
            version: 3,
        };
        let expected = json!({
            "key_base64": "a/8=", "value": "v", "create_revision": 1, "mod_revision": 2, "version": 3
        });
        assert_eq!(Value::Object(key_value(&kv, true)), expected);
    }

    #[test]
    fn a_transaction_is_read_as_it_is_written() {
        let text = r#"{
            "compares": [{"key": "a", "value_base64": "/w=="}, {"key": "b", "relation": ">", "version": 1}],
            "success": [{"put": {"key": "a", "value": "1", "prev_kv": true}}],
            "failure": [{"range": {"prefix": "b", "limit": 2}}, {"delete": {"key": "c", "end": "d"}}]
        }"#;
        let txn = parse_txn(text).unwrap();
        let b = Bytes::from_static;
        let expected = Txn {
            compares: vec![
                Compare { key: b(b"a"), relation: Relation::Equal, target: CompareTarget::Value(b(b"\xff")) },
                Compare { key: b(b"b"), relation: Relation::Greater, target: CompareTarget::Version(1) },
            ],
            success: vec![TxnOperation::Put(Put { key: b(b"a"), value: b(b"1"), prev_kv: true })],
            failure: vec![
                TxnOperation::Range(Range {
                    range: KeyRange::Prefix(b(b"b")),
                    revision: None,
                    limit: 2,
                    keys_only: false,
                    count_only: false,
                }),
                TxnOperation::DeleteRange(DeleteRange {
                    range: KeyRange::HalfOpen { start: b(b"c"), end: b(b"d") },
                    prev_kv: false,
                }),
            ],
        };
        assert_eq!(txn, expected);
        assert_eq!(parse_txn("{}").unwrap(), Txn { compares: vec![], success: vec![], failure: vec![] });
    }

    #[test]
    fn what_is_wrong_with_a_transaction_is_said() {
        let cases = [
            ("", "EOF"),
            (r#"{"succes": []}"#, "unknown field `succes`"),
            (r#"{"success": [{"putt": {}}]}"#, "unknown variant `putt`"),
            (r#"{"success": [{"put": {"key": "a"}}]}"#, "missing `value`"),
            (r#"{"success": [{"put": {"key": "a", "key_base64": "", "value": "1"}}]}"#, "both `key` and"),
            (r#"{"success": [{"put": {"key_base64": "?", "value": "1"}}]}"#, "`key_base64`: "),
            (r#"{"failure": [{"range": {}}]}"#, "a range has"),
            (r#"{"compares": [{"key": "a"}]}"#, "a compare has one of"),
            (r#"{"compares": [{"key": "a", "relation": "~", "version": 1}]}"#, "unknown variant `~`"),
        ];
        for (text, expected) in cases {
            let error = parse_txn(text).unwrap_err();
            assert!(error.contains(expected), "{text}\nsays: {error}");
        }
    }
}
