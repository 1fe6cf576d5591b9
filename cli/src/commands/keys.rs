//! `steadfast keys`: API keys, on the database itself. Only their hashes are kept; a key is shown once.

use std::process::ExitCode;

use chrono::{SecondsFormat, TimeDelta};
use serde_json::{Value, json};
use steadfast::{
    run::{TenantId, Time},
    store::ApiKey,
};
use steadfast_gateway::{new_api_key, unknown_scopes};
use uuid::Uuid;

use super::{close, open};
use crate::{
    args::Keys,
    config::Settings,
    edge,
    error::Failure,
    output::{self, clean, note, table},
};

const NAME_CHARS_MAX: usize = 100;
const EXPIRES_DAYS_MAX: u32 = 3650;

pub async fn keys(settings: &Settings, command: Keys) -> Result<ExitCode, Failure> {
    match command {
        Keys::Create {
            name,
            tenant,
            scopes,
            expires_days,
            json,
            database,
        } => {
            let tenant: TenantId = tenant
                .parse()
                .map_err(|error| Failure::new(format!("--tenant: {error}")))?;
            let name = checked_name(name)?;
            let scopes = checked_scopes(&scopes)?;
            let expires_at = expires_days.map(expiry).transpose()?;
            let store = open(settings, &database).await?;
            let (key, secret, hash) = new_api_key(tenant, name, scopes, expires_at);
            store.reader.put_api_key(&key, &hash).await?;
            close(&store.db).await;
            if json {
                let mut shown = view(&key);
                shown["key"] = secret.expose().into();
                output::json(&shown)?;
            } else {
                output::line(secret.expose())?;
                note(&format!(
                    "key {} of tenant {}, scopes {}. It is not shown again",
                    key.id, key.tenant, key.scopes
                ));
            }
        }
        Keys::List { json, database } => {
            let store = open(settings, &database).await?;
            let keys = store.reader.api_keys().await?;
            close(&store.db).await;
            if json {
                let views: Vec<Value> = keys.iter().map(view).collect();
                output::json(&json!({"object": "list", "data": views}))?;
            } else if keys.is_empty() {
                output::line("no keys; `steadfast keys create --name NAME` makes one")?;
            } else {
                let now = edge::now();
                let rows: Vec<Vec<String>> = keys.iter().map(|key| row(key, now)).collect();
                output::write(&table(&["id", "name", "tenant", "state", "expires", "scopes"], &rows))?;
            }
        }
        Keys::Revoke { id, database } => {
            let bad = |_| {
                Failure::new(format!(
                    "{:?} is not the id of a key; `steadfast keys list` shows them",
                    clean(&id)
                ))
            };
            let uuid = Uuid::parse_str(&id).map_err(bad)?;
            let store = open(settings, &database).await?;
            let revoked = store.reader.revoke_api_key(uuid, edge::now()).await?;
            close(&store.db).await;
            if !revoked {
                return Err(Failure::new(format!(
                    "there is no key {uuid} that could be revoked; see `steadfast keys list`"
                )));
            }
            output::line(&format!("key {uuid} is revoked; gateways notice within seconds"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn checked_name(name: String) -> Result<String, Failure> {
    let chars = name.chars().count();
    if (1..=NAME_CHARS_MAX).contains(&chars) && !name.chars().any(char::is_control) {
        return Ok(name);
    }
    Err(Failure::new(format!(
        "--name must have 1 to {NAME_CHARS_MAX} printable characters"
    )))
}

/// Separated by commas on the command line, by spaces in tokens and in the store.
fn checked_scopes(scopes: &[String]) -> Result<String, Failure> {
    let scopes = scopes.iter().map(|scope| scope.trim()).collect::<Vec<_>>().join(" ");
    match unknown_scopes(&scopes)[..] {
        [] if !scopes.trim().is_empty() => Ok(scopes),
        [] => Err(Failure::new("--scopes is empty; a key without a scope opens nothing")),
        [unknown, ..] => Err(Failure::new(format!(
            "there is no scope {unknown:?}; the scopes are runs:write, runs:read, approvals:write, sessions:write, \
             sessions:read, usage:read, providers:read, and * for all"
        ))),
    }
}

fn expiry(days: u32) -> Result<Time, Failure> {
    if (1..=EXPIRES_DAYS_MAX).contains(&days) {
        return Ok(edge::now() + TimeDelta::days(days.into()));
    }
    Err(Failure::new(format!(
        "--expires-days is {days}; it must lie between 1 and {EXPIRES_DAYS_MAX}"
    )))
}

fn moment(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn state(key: &ApiKey, now: Time) -> &'static str {
    if key.revoked_at.is_some() {
        "revoked"
    } else if key.expires_at.is_some_and(|end| end <= now) {
        "expired"
    } else {
        "active"
    }
}

fn row(key: &ApiKey, now: Time) -> Vec<String> {
    let expires = key.expires_at.map_or_else(|| "never".into(), moment);
    let state = state(key, now).to_owned();
    vec![
        key.id.to_string(),
        clean(&key.name),
        key.tenant.to_string(),
        state,
        expires,
        key.scopes.clone(),
    ]
}

fn view(key: &ApiKey) -> Value {
    json!({
        "object": "api_key",
        "id": key.id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": key.scopes.split(' ').collect::<Vec<_>>(),
        "created_at": moment(key.created_at),
        "expires_at": key.expires_at.map(moment),
        "revoked_at": key.revoked_at.map(moment),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_that_does_not_exist_is_refused_by_name() {
        let refused = checked_scopes(&["runs:read".into(), "run:write".into()])
            .err()
            .map(|failure| failure.to_string());
        assert!(refused.is_some_and(|said| said.contains("\"run:write\"")));
        assert_eq!(
            checked_scopes(&["runs:read".into(), " *".into()]).ok().as_deref(),
            Some("runs:read *")
        );
        assert!(checked_scopes(&["".into()]).is_err());
    }
}
