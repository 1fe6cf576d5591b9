//! The workload as a Restate service: every model call and the tool call are durable steps of one handler.

use chat::{Args, Model};
use clap::Parser;
use restate_sdk::prelude::*;
use serde_json::Value;
use socket2::SockRef;
use tokio::net::TcpListener;

struct Agent {
    model: Model,
}

#[service]
impl Agent {
    #[handler]
    async fn run(&self, context: Context<'_>, task: String) -> Result<String, HandlerError> {
        let mut messages = chat::conversation(&task);
        loop {
            // A step may outlive this turn of the loop, so it owns what it works on.
            let sent = messages.clone();
            let step = context.run(|| async move { Ok(Json(self.model.reply(&sent).await?)) });
            let Json(reply): Json<Value> = step.name("model").await?;
            let calls = chat::tool_calls(&reply);
            if calls.is_empty() {
                return Ok(reply["content"].as_str().unwrap_or_default().to_owned());
            }
            messages.push(reply);
            for call in calls {
                let asked = call.clone();
                let step = context.run(|| async move { Ok(chat::lookup(&asked)?) });
                let found: String = step.name("lookup").await?;
                messages.push(chat::tool_message(&call, found));
            }
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await?;
    // Sockets inherit it from the one that accepts them. The SDK does not set it, and its small frames then wait for
    // acknowledgements, some 40 ms each time.
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    let agent = Agent {
        model: Model::new(&args.model_url)?,
    };
    HttpServer::new(Endpoint::builder().bind(agent).build())
        .serve(listener)
        .await;
    Ok(())
}
