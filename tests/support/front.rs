//! nginx and HAProxy, Debian's packages, as `docs/proxies` configures them.

use std::process::{Child, Command, Stdio};

use super::{Runtime, apt};

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Nginx,
    HaProxy,
}

/// A proxy process; killed when dropped.
pub struct Front {
    process: Child,
    pub grpc: String,
    pub web: String,
    _dir: tempfile::TempDir,
}

impl Kind {
    /// Installs the package if it is not there and this user may.
    fn install(self) -> &'static str {
        let (package, binary) = match self {
            Self::Nginx => ("nginx-light", "/usr/sbin/nginx"),
            Self::HaProxy => ("haproxy", "/usr/sbin/haproxy"),
        };
        apt::install(package, binary);
        binary
    }

    /// In front of a runtime, with the file of the docs but for the addresses. `idle` in
    /// place of its time-outs, which are their defaults where the file has none.
    pub async fn start(self, runtime: &str, idle: Option<&str>) -> Front {
        let text = match self {
            Self::Nginx => include_str!("../../docs/proxies/nginx.conf"),
            Self::HaProxy => include_str!("../../docs/proxies/haproxy.cfg"),
        };
        let text = text.replace("127.0.0.1:7777", runtime);
        self.serve(&text, idle).await
    }

    /// In front of three replicas.
    pub async fn start_for_cell(self, replicas: [&Runtime; 3]) -> Front {
        let text = match self {
            Self::Nginx => include_str!("../../docs/proxies/nginx-cell.conf"),
            Self::HaProxy => include_str!("../../docs/proxies/haproxy-cell.cfg"),
        };
        let at_home = |line: &str| {
            let of = |number: &usize| line.contains(&format!("replica-{number}:7777"));
            let Some(number) = (0..3).find(of) else {
                return format!("{line}\n");
            };
            let replica = replicas[number];
            let (_, admin_port) = replica.admin.rsplit_once(':').expect("a port");
            let line = line.replace(&format!("replica-{number}:7777"), &replica.address);
            line.replace("7778", admin_port) + "\n"
        };
        let text: String = text.lines().map(at_home).collect();
        self.serve(&text, None).await
    }

    async fn serve(self, text: &str, idle: Option<&str>) -> Front {
        let binary = tokio::task::spawn_blocking(move || self.install());
        let binary = binary.await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let [grpc, web] = free_addresses();
        let file = dir.path().join("conf");
        let own = dir.path().display();
        let mut command = Command::new(binary);
        let (text, web) = match self {
            Self::Nginx => {
                let idle = idle.map_or(String::new(), |idle| {
                    [
                        "grpc_read",
                        "grpc_send",
                        "client_body",
                        "proxy_read",
                        "proxy_send",
                    ]
                    .map(|name| format!("{name}_timeout {idle};\n"))
                    .concat()
                });
                let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
                let paths = paths.map(|name| format!("{name}_temp_path {own}/{name};\n"));
                let mine = format!("http {{\naccess_log off;\n{idle}{}", paths.concat());
                let text = text.replace("http {", &mine);
                let process = format!("daemon off; master_process off; pid {own}/pid;\n");
                command.args(["-e", "/dev/stderr", "-c"]).arg(&file);
                (process + &text, web)
            }
            Self::HaProxy => {
                let text = match idle {
                    Some(idle) => text.replace("50s", idle),
                    None => text.to_owned(),
                };
                command.args(["-db", "-f"]).arg(&file);
                (text, grpc.clone())
            }
        };
        let text = text
            .replace("127.0.0.1:8080", &grpc)
            .replace("127.0.0.1:8081", &web);
        std::fs::write(&file, text).unwrap();
        let process = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let front = Front {
            process,
            grpc,
            web,
            _dir: dir,
        };
        let began = std::time::Instant::now();
        for address in [&front.grpc, &front.web] {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                assert!(began.elapsed().as_secs() < 30, "{self:?} does not listen");
                super::look_again().await;
            }
        }
        front
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Neither says which port 0 became.
fn free_addresses() -> [String; 2] {
    let all = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    all.map(|listener| listener.local_addr().unwrap().to_string())
}
