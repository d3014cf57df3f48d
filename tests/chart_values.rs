//! What a chart's values may be: host names of routes, and where they lead.

mod support;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use support::buf::said;
use support::helm::*;

fn set(values: &str) -> Vec<Value> {
    objects(&rendered(&["--set", values]))
}

/// The gRPC services of `proto` and those of every server.
fn services() -> BTreeSet<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/arcp/v1");
    let mut services: BTreeSet<_> = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ]
    .map(|name| format!("/{name}"))
    .into();
    for file in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let names = text
            .lines()
            .filter_map(|line| line.strip_prefix("service "));
        services.extend(names.map(|name| format!("/arcp.v1.{}", name.trim_end_matches(" {"))));
    }
    assert!(services.contains("/arcp.v1.AdminService"));
    services
}

#[test]
fn each_service_is_reached_through_the_ingress_and_the_gateway() {
    let all = set(
        "ingress.enabled=true,gateway.enabled=true,gateway.parentRefs[0].name=a,\
         gateway.hostnames[0]=b.example,gateway.grpcHostnames[0]=c.example",
    );
    let ingress = &object(&all, "Ingress", "arcpd-grpc")["spec"]["rules"][0]["http"]["paths"];
    let route = &object(&all, "HTTPRoute", "arcpd-web")["spec"]["rules"];
    let paths = |list: &Value, at: &str| -> BTreeSet<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|item| item.pointer(at).unwrap().as_str().unwrap().to_owned())
            .collect()
    };
    let led = [
        paths(ingress, "/path"),
        paths(&route[0]["matches"], "/path/value"),
    ];
    for service in services() {
        for led in &led {
            assert!(led.contains(&service), "{service} not in {led:?}");
        }
    }
    // gRPC-Web beside gRPC, and a WebSocket to the port that says HTTP/1.1.
    let backend = |rule: &Value| {
        object(
            &all,
            "Service",
            rule["backendRefs"][0]["name"].as_str().unwrap(),
        )
    };
    let protocol = |rule: &Value| backend(rule)["spec"]["ports"][0]["appProtocol"].clone();
    assert_eq!(protocol(&route[0]), "kubernetes.io/h2c");
    assert_eq!(route[1]["matches"][0]["path"]["value"], "/arcp");
    assert_eq!(protocol(&route[1]), "http");
    let grpc = &object(&all, "GRPCRoute", "arcpd")["spec"]["rules"][0];
    assert_eq!(protocol(grpc), "kubernetes.io/h2c");
}

/// A gateway must refuse one of an HTTPRoute and a GRPCRoute whose names meet at a listener.
#[test]
fn no_host_name_has_two_routes() {
    const GATEWAY: &str =
        "gateway.enabled=true,gateway.parentRefs[0].name=a,gateway.envoyGateway.enabled=true";
    let kinds = |more: &str| {
        let all = set(&format!("{GATEWAY}{more}"));
        let policy = object(&all, "BackendTrafficPolicy", "arcpd");
        let refs = policy["spec"]["targetRefs"].as_array().unwrap().clone();
        for target in &refs {
            let (kind, name) = (&target["kind"], &target["name"]);
            object(&all, kind.as_str().unwrap(), name.as_str().unwrap());
        }
        let routes = all.iter().filter_map(|object| object["kind"].as_str());
        let routes: Vec<_> = routes
            .filter(|kind| kind.ends_with("Route"))
            .map(str::to_owned)
            .collect();
        assert_eq!(refs.len(), routes.len());
        routes
    };
    assert_eq!(kinds(""), ["HTTPRoute"]);
    assert_eq!(kinds(",gateway.hostnames={a.example}"), ["HTTPRoute"]);
    assert_eq!(kinds(",gateway.grpcHostnames={a.example}"), ["GRPCRoute"]);
    let apart = ",gateway.hostnames={*.a.example},gateway.grpcHostnames={a.example,b.example}";
    assert_eq!(kinds(apart).len(), 2);
    for (http, grpc) in [
        ("a.example", "a.example"),
        ("*.example", "a.example"),
        ("x.a.example", "*.example"),
        ("*.a.example", "*.example"),
        ("*.example", "*.a.example"),
    ] {
        let both =
            format!("{GATEWAY},gateway.hostnames={{z.z,{http}}},gateway.grpcHostnames={{{grpc}}}");
        let why = said(&template(&newest(), &["--set", &both]));
        let words = format!("gateway.grpcHostnames has {grpc} and gateway.hostnames {http}");
        assert!(why.contains(&words), "{http} {grpc}: {why}");
    }
}
