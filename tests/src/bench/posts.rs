//! Many requests at once: tasks to queue, runs to end.

use futures::{StreamExt, TryStreamExt, stream};
use reqwest::RequestBuilder;
use serde_json::Value;

use crate::Result;

/// Requests under way at the same time.
const AT_ONCE: usize = 64;

/// Posts tasks without waiting for their runs. Answers their ids.
pub async fn tasks(base: &str, body: &Value, tasks: u64) -> Result<Vec<String>> {
    let http = crate::http();
    let url = format!("{base}/v1/runs");
    let posts = (0..tasks).map(|_| accepted(http.post(&url).json(body)));
    stream::iter(posts).buffer_unordered(AT_ONCE).try_collect().await
}

/// Asks every one of these runs to end.
pub async fn cancel(base: &str, runs: &[String]) -> Result<()> {
    let http = crate::http();
    let posts = runs
        .iter()
        .map(|run| answered(http.post(format!("{base}/v1/runs/{run}/cancel"))));
    stream::iter(posts)
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await
}

/// The id of the run that a task became.
async fn accepted(post: RequestBuilder) -> Result<String> {
    let answer = answered(post).await?;
    let run: Value = serde_json::from_str(&answer)?;
    let id = run["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| format!("a task was accepted without an id: {answer}").into())
}

/// The body of an answer that says yes.
async fn answered(post: RequestBuilder) -> Result<String> {
    let answer = post.send().await?;
    let (status, url) = (answer.status(), answer.url().path().to_owned());
    let text = answer.text().await?;
    if status.is_success() {
        return Ok(text);
    }
    Err(format!("POST {url} was answered {status}: {text}").into())
}
