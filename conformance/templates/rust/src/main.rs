//! A port of SEFT with two operations, without dependencies. Judge it with
//!
//!     seft verify doctor --port target/release/my_port
//!     seft verify --port target/release/my_port --only select.largest
//!
//! `seft verify list --ops` lists the others; SPEC.md says what they mean, its chapter 16 what a line looks like.

mod json;

use json::{base64, from_base64, hex_float, quoted, Json};
use std::io::{self, BufRead, Write};

/// Why an operation has no outputs.
enum No {
    Refused(&'static str, String),
    Broken(String),
}

type Out = Result<Vec<(&'static str, String)>, No>;

const OPERATIONS: [(&str, fn(&Json) -> Out); 2] = [("select.largest", largest), ("count.drop", drops)];

// values (PRT-002, PRT-003)

fn array(given: &Json, name: &str) -> Result<(String, Vec<u8>), No> {
    let v = given.get(name).ok_or_else(|| No::Broken(format!("{name} is missing")))?;
    match (v.get("dtype"), v.get("b64")) {
        (Some(Json::Text(dtype)), Some(Json::Text(data))) => Ok((dtype.clone(), from_base64(data).map_err(No::Broken)?)),
        _ => Err(No::Broken(format!("{name} is no array"))),
    }
}

fn floats(given: &Json, name: &str) -> Result<Vec<f64>, No> {
    let (dtype, raw) = array(given, name)?;
    Ok(match dtype.as_str() {
        "f64" => raw.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        "f32" => raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect(),
        other => return Err(No::Broken(format!("{name} is an array of {other}"))),
    })
}

fn integers(given: &Json, name: &str) -> Result<Vec<i64>, No> {
    let (_, raw) = array(given, name)?;
    Ok(raw.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect())
}

fn integer(given: &Json, name: &str) -> Result<i64, No> {
    match given.get(name) {
        Some(Json::Number(text)) => text.parse().map_err(|_| No::Broken(format!("{name} is no integer"))),
        _ => Err(No::Broken(format!("{name} is no integer"))),
    }
}

fn float(given: &Json, name: &str) -> Result<f64, No> {
    match given.get(name).and_then(|v| v.get("f64")) {
        Some(Json::Text(text)) => hex_float(text).ok_or_else(|| No::Broken(format!("{name} is no float"))),
        _ => integer(given, name).map(|n| n as f64),
    }
}

fn integer_array(values: &[i64]) -> String {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    format!("{{\"dtype\":\"i64\",\"shape\":[{}],\"b64\":\"{}\"}}", values.len(), base64(&raw))
}

// operations

/// SEL-001, SEL-003 to SEL-005
fn largest(given: &Json) -> Out {
    let (scores, ids, k) = (floats(given, "scores")?, integers(given, "ids")?, integer(given, "k")?);
    if scores.iter().any(|s| !s.is_finite()) {
        return Err(No::Refused("SEL-004", "a score is NaN or infinite".into()));
    }
    if k < 0 || k as usize > scores.len() {
        return Err(No::Refused("SEL-005", format!("cannot select {k} of {}", scores.len())));
    }
    let mut order: Vec<usize> = (0..scores.len()).collect();
    // by score descending, then id ascending; −0.0 equals +0.0
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap().then(ids[a].cmp(&ids[b])));
    let mut chosen: Vec<i64> = order[..k as usize].iter().map(|&i| ids[i]).collect();
    chosen.sort_unstable();
    Ok(vec![("chosen", integer_array(&chosen))])
}

/// SCH-001, SCH-002, SEL-006
fn drops(given: &Json) -> Out {
    let (rate, step, steps) = (float(given, "drop_fraction")?, integer(given, "step")?, integer(given, "steps")?);
    let slots = integer(given, "slots")? as f64;
    let fraction = 0.5 * rate * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
    Ok(vec![("n", format!("{}", (fraction * slots + 2f64.powi(-20)).floor() as i64))])
}

// the protocol (PRT-004 to PRT-008)

fn answer(message: &Json) -> String {
    let id = match message.get("id") {
        Some(Json::Text(id)) => quoted(id),
        _ => "null".into(),
    };
    match message.text("type") {
        "hello" => {
            let ops: Vec<String> =
                OPERATIONS.iter().map(|(op, _)| format!("{}:[\"exact64\",\"fp32\"]", quoted(op))).collect();
            format!(
                "{{\"type\":\"hello\",\"protocol\":1,\"port\":{{\"name\":\"my_port\",\"version\":\"0.1\",\
                 \"language\":\"Rust\"}},\"ops\":{{{}}},\"flags\":{{\"deterministic\":true}}}}",
                ops.join(",")
            )
        }
        "ping" => format!("{{\"type\":\"pong\",\"id\":{id}}}"),
        "call" => call(message, &id),
        other => format!("{{\"type\":\"error\",\"id\":{id},\"message\":{}}}", quoted(&format!("unknown type {other}"))),
    }
}

fn call(message: &Json, id: &str) -> String {
    let op = message.text("op");
    let Some((_, run)) = OPERATIONS.iter().find(|(name, _)| *name == op) else {
        return format!("{{\"type\":\"unsupported\",\"id\":{id},\"what\":{}}}", quoted(op));
    };
    match run(message.get("in").unwrap_or(&Json::Null)) {
        Ok(out) => {
            let members: Vec<String> = out.iter().map(|(name, v)| format!("{}:{v}", quoted(name))).collect();
            format!("{{\"type\":\"ok\",\"id\":{id},\"out\":{{{}}}}}", members.join(","))
        }
        Err(No::Refused(code, detail)) => {
            format!("{{\"type\":\"rejected\",\"id\":{id},\"code\":\"{code}\",\"detail\":{}}}", quoted(&detail))
        }
        Err(No::Broken(what)) => format!("{{\"type\":\"error\",\"id\":{id},\"message\":{}}}", quoted(&what)),
    }
}

fn main() {
    let mut out = io::stdout();
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let reply = match json::parse(&line) {
            Ok(message) if message.text("type") == "stop" => return,
            Ok(message) => answer(&message),
            Err(what) => format!("{{\"type\":\"error\",\"id\":null,\"message\":{}}}", quoted(&what)),
        };
        if writeln!(out, "{reply}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}
