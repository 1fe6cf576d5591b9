//! What a stack is made of, and how it is put together.

use std::{path::Path, sync::Arc};

use crate::{PrivateNats, PrivatePostgres, ScriptedModel, Settings, fresh_prefix, services};

use super::{
    binary, home,
    network::Network,
    role::{Env, Role},
    stack::{Mode, Stack, room},
};

/// What the environment of whoever starts the tests must not change. Empty counts as unset.
const CLEARED: [&str; 25] = [
    "DATABASE_URL",
    "NATS_URL",
    "OPENAI_BASE_URL",
    "OPENAI_API_KEY",
    "STEADFAST_MODEL",
    "STEADFAST_JWT_SECRET",
    "STEADFAST_JWKS_URL",
    "STEADFAST_JWT_AUDIENCE",
    "STEADFAST_JWT_ISSUER",
    "STEADFAST_API_KEYS",
    "STEADFAST_NATS_PREFIX",
    "STEADFAST_NATS_REPLICAS",
    "STEADFAST_POOL",
    "STEADFAST_SLOTS",
    "STEADFAST_LEASE_MS",
    "STEADFAST_DRAIN_SECONDS",
    "STEADFAST_AGENTS",
    "STEADFAST_HOST",
    "STEADFAST_LOG",
    "STEADFAST_LOG_FORMAT",
    "STEADFAST_URL",
    "STEADFAST_CRASH",
    "STEADFAST_API_KEY",
    "HTTP_PROXY",
    "http_proxy",
];

/// In a `steadfast.toml`: the address of the second model server.
const SPARE: &str = "{spare}";

/// What a stack is to be made of.
pub struct Layout {
    mode: Mode,
    gateways: usize,
    workers: usize,
    private: bool,
    postgres: Vec<String>,
    program: &'static Path,
    model: Option<Settings>,
    config: Option<String>,
    agents: Vec<(String, String)>,
    env: Vec<(String, String)>,
    args: Vec<String>,
    crash_points: bool,
    network: bool,
}

impl Layout {
    pub fn embedded() -> Self {
        let model = Some(Settings::default());
        Self {
            mode: Mode::Embedded,
            gateways: 1,
            workers: 0,
            private: false,
            postgres: vec![],
            program: binary::steadfast(),
            model,
            config: None,
            agents: vec![],
            env: vec![],
            args: vec![],
            crash_points: false,
            network: false,
        }
    }

    /// One gateway, two workers, one projector.
    pub fn distributed() -> Self {
        Self {
            mode: Mode::Distributed,
            workers: 2,
            ..Self::embedded()
        }
    }

    pub fn gateways(self, gateways: usize) -> Self {
        Self { gateways, ..self }
    }

    pub fn workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Servers of its own, to be killed.
    pub fn private_servers(self) -> Self {
        Self { private: true, ..self }
    }

    /// Settings of its own Postgres, such as `shared_buffers=512MB`.
    pub fn postgres_settings(self, settings: &[String]) -> Self {
        Self {
            postgres: settings.to_vec(),
            ..self
        }
    }

    /// Another build of the program, for every process and command.
    pub fn program(self, program: &'static Path) -> Self {
        Self { program, ..self }
    }

    /// A build of the program that can be told where to die.
    pub fn crash_points(self) -> Self {
        Self {
            crash_points: true,
            ..self
        }
    }

    /// The first gateway, the first worker and the projector reach what they stand on over a network that can be broken:
    /// [`Stack::network`].
    pub fn network(self) -> Self {
        Self { network: true, ..self }
    }

    pub fn model(self, settings: Settings) -> Self {
        Self {
            model: Some(settings),
            ..self
        }
    }

    /// The built-in model answers.
    pub fn without_provider(self) -> Self {
        Self { model: None, ..self }
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// A `steadfast.toml`; where it says `{spare}`, that is the address of a second model server.
    pub fn config(self, text: &str) -> Self {
        Self {
            config: Some(text.into()),
            ..self
        }
    }

    /// An agent file; with one of these there are no others.
    pub fn agent(mut self, name: &str, text: &str) -> Self {
        self.agents.push((name.into(), text.into()));
        self
    }

    /// More arguments for `steadfast dev`.
    pub fn dev_args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).into()));
        self
    }

    pub async fn start(self) -> Stack {
        let room = room().await;
        let mut stack = self.start_unbounded().await;
        stack._room = Some(room);
        stack
    }

    /// For stacks that many tests share: each takes [`room`] while it is at work.
    pub async fn start_unbounded(self) -> Stack {
        let dir = home::new();
        let model = match self.model.clone() {
            Some(settings) => Some(ScriptedModel::start_with(settings).await),
            None => None,
        };
        let (postgres, nats) = if self.private {
            let postgres = PrivatePostgres::start_with(self.postgres.clone());
            let (postgres, nats) = tokio::join!(postgres, PrivateNats::start());
            (
                Some(postgres.expect("a Postgres of its own")),
                Some(nats.expect("a NATS of its own")),
            )
        } else {
            (None, None)
        };
        let spare = match &self.config {
            Some(text) if text.contains(SPARE) => Some(ScriptedModel::start().await),
            _ => None,
        };
        if let Some(text) = &self.config {
            let address = spare.as_ref().map(ScriptedModel::base_url).unwrap_or_default();
            let written = std::fs::write(dir.join("steadfast.toml"), text.replace(SPARE, &address));
            written.expect("a place to write");
        }
        std::fs::create_dir_all(dir.join("agents")).expect("a place to write");
        for (name, text) in &self.agents {
            std::fs::write(dir.join("agents").join(format!("{name}.toml")), text).expect("a place to write");
        }
        let mut env = self.environment(model.as_ref(), postgres.as_ref(), nats.as_ref()).await;
        if !self.agents.is_empty() {
            let agents = dir.join("agents").display().to_string();
            Arc::make_mut(&mut env).push(("STEADFAST_AGENTS".into(), agents));
        }
        let network = if self.network {
            Some(Network::between(&env).await)
        } else {
            None
        };
        let mut stack = Stack {
            mode: self.mode,
            program: self.program,
            network,
            gateways: vec![],
            workers: vec![],
            projectors: vec![],
            model,
            spare,
            postgres,
            nats,
            dir,
            env,
            _room: None,
            kept: false,
        };
        self.make_roles(&mut stack);
        if self.mode == Mode::Distributed {
            stack.cli(&["migrate"]).await.succeeded();
        }
        stack.roles().for_each(Role::launch);
        for role in stack.roles() {
            role.ready().await;
        }
        stack
    }

    fn make_roles(&self, stack: &mut Stack) {
        let config = stack.dir.join("steadfast.toml").display().to_string();
        let role = |name: String, args: &[&str], first: bool| {
            let mut args = args.to_vec();
            if self.config.is_some() {
                args.extend(["--config", &config]);
            }
            let mut role = Role::new(name, &args, stack.env.clone(), &stack.dir).running(self.program);
            if self.crash_points {
                role = role.running(binary::with_crash_points());
            }
            // The others of its kind are not behind that network: they can take over.
            if first {
                for (variable, value) in stack.network.iter().flat_map(|network| network.env_of(args[0])) {
                    role.set_env(variable, value);
                }
            }
            role
        };
        match self.mode {
            Mode::Embedded => {
                let data = stack.dir.join("data");
                let mut args = vec!["dev", "--data-dir", data.to_str().expect("a path of ASCII")];
                args.extend(self.args.iter().map(String::as_str));
                stack.gateways = vec![role("dev".into(), &args, true)];
            }
            Mode::Distributed => {
                stack.gateways = (1..=self.gateways)
                    .map(|n| role(format!("gateway{n}"), &["gateway"], n == 1))
                    .collect();
                stack.workers = (1..=self.workers)
                    .map(|n| role(format!("worker{n}"), &["worker"], n == 1))
                    .collect();
                stack.projectors = vec![role("projector".into(), &["projector"], true)];
            }
        }
    }

    async fn environment(
        &self,
        model: Option<&ScriptedModel>,
        postgres: Option<&PrivatePostgres>,
        nats: Option<&PrivateNats>,
    ) -> Env {
        let mut env: Vec<(String, String)> = CLEARED.map(|name| (name.into(), String::new())).into();
        let mut set = |name: &str, value: String| env.push((name.into(), value));
        if let Some(model) = model {
            set("OPENAI_BASE_URL", model.base_url());
            set("OPENAI_API_KEY", "of-a-test".into());
        }
        if self.mode == Mode::Distributed {
            let database = match postgres {
                Some(postgres) => postgres.url("postgres"),
                None => services().await.fresh_database().await,
            };
            let nats = match nats {
                Some(nats) => nats.url(),
                None => services().await.nats_url.clone(),
            };
            set("DATABASE_URL", database);
            set("NATS_URL", nats);
            set("STEADFAST_NATS_PREFIX", fresh_prefix());
        }
        env.extend(self.env.iter().cloned());
        Arc::new(env)
    }
}
