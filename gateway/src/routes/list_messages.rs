//! `GET /v1/sessions/{id}/messages`: what a conversation remembers, oldest first.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use steadfast::run::{RunId, SessionId};

use super::freshen;
use crate::{
    gateway::Gateway,
    identity::Who,
    problem::Problem,
    query::{PathId, Query, bad},
    view::{List, MessageView, message_id},
};

pub async fn handle(
    State(gateway): State<Gateway>,
    who: Who,
    PathId(id): PathId<SessionId>,
    RawQuery(query): RawQuery,
) -> Result<Json<List<MessageView>>, Problem> {
    let query = Query::read(query.as_deref(), &["limit", "after", "before"])?;
    for name in ["after", "before"] {
        if query.get(name).is_some_and(|text| !is_message_id(text)) {
            return Err(bad(name, "must be the id of a message, as this list gives it"));
        }
    }
    let page = query.page()?;
    let session = gateway.store.reader.session(&who.tenant, id).await?;
    session.ok_or_else(|| Problem::no_such_session(&id.to_string()))?;
    freshen(&gateway).await;
    let rows = gateway.reads.messages(&who.tenant, id, &page).await?;
    Ok(Json(List::of(rows, message_id, MessageView::from)))
}

/// `run_….version.index`
fn is_message_id(text: &str) -> bool {
    let parts: Vec<&str> = text.split('.').collect();
    let [run, version, index] = parts[..] else { return false };
    run.parse::<RunId>().is_ok() && [version, index].iter().all(|number| number.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_id_of_a_message_is_read_as_one() {
        let run = RunId::default();
        assert!(is_message_id(&format!("{run}.3.0")));
        for bad in [
            format!("{run}"),
            format!("{run}.3"),
            format!("{run}.3.0.1"),
            format!("{run}.x.0"),
            "1.2.3".into(),
        ] {
            assert!(!is_message_id(&bad), "{bad}");
        }
    }
}
