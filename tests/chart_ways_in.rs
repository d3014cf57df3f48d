//! How a release is reached: ports, families of addresses, load balancers, and a gateway that
//! speaks TLS to the pods.

mod support;

use serde_json::{Value, json};
use support::buf::said;
use support::helm::*;
use support::mounted::stateful_set;

fn set(values: &str) -> Vec<Value> {
    objects(&rendered(&["--set", values]))
}

fn service<'a>(objects: &'a [Value], name: &str) -> &'a Value {
    &object(objects, "Service", name)["spec"]
}

/// The port of the Service was the process's own, and 443 is not for everybody's process.
#[test]
fn the_port_of_the_service_is_not_the_port_of_the_process() {
    let all = set(
        "service.port=443,service.adminPort=80,containerPorts.grpc=8443,containerPorts.admin=9090,\
         ingress.enabled=true",
    );
    let pod = &stateful_set(&all)["template"]["spec"]["containers"][0];
    let ports = json!([
        { "name": "grpc", "containerPort": 8443 },
        { "name": "admin", "containerPort": 9090 },
    ]);
    assert_eq!(pod["ports"], ports);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(pod[probe]["grpc"]["port"], 9090, "{probe}");
    }
    let file = configuration(&all);
    assert!(file.contains(r#"listen = "0.0.0.0:8443""#), "{file}");
    assert!(file.contains(r#"admin_listen = "0.0.0.0:9090""#), "{file}");

    for (name, port, target) in [
        ("arcpd", 443, "grpc"),
        ("arcpd-web", 443, "grpc"),
        ("arcpd-admin", 80, "admin"),
        // Of this one only the names lead anywhere.
        ("arcpd-headless", 8443, "grpc"),
    ] {
        let port_of = &service(&all, name)["ports"][0];
        assert_eq!(port_of["port"], port, "{name}");
        assert_eq!(port_of["targetPort"], target, "{name}");
    }
    let backend = "/spec/rules/0/http/paths/0/backend/service/port/number";
    let ingress = object(&all, "Ingress", "arcpd-web");
    assert_eq!(ingress.pointer(backend), Some(&json!(443)));
    // By way of the Service, whatever the process has.
    let test = &object(&all, "Pod", "arcpd-test")["spec"]["containers"][0];
    assert_eq!(test["env"][0]["value"], "http://arcpd.agents.svc:443");
}

#[test]
fn a_load_balancer_is_told_what_it_is_to_be() {
    let all = set(
        "service.type=LoadBalancer,service.loadBalancerClass=example.org/internal,\
         service.loadBalancerSourceRanges={10.0.0.0/8},service.externalTrafficPolicy=Local",
    );
    let spec = service(&all, "arcpd");
    assert_eq!(spec["loadBalancerClass"], "example.org/internal");
    assert_eq!(spec["loadBalancerSourceRanges"], json!(["10.0.0.0/8"]));
    assert_eq!(spec["externalTrafficPolicy"], "Local");
    let plain = set("service.type=LoadBalancer");
    for absent in [
        "loadBalancerClass",
        "loadBalancerSourceRanges",
        "externalTrafficPolicy",
        "ipFamilyPolicy",
        "ipFamilies",
    ] {
        assert_eq!(service(&plain, "arcpd")[absent], Value::Null, "{absent}");
    }
}

#[test]
fn all_services_have_the_families_of_addresses_that_are_said() {
    let all = set(
        "service.ipFamilyPolicy=RequireDualStack,service.ipFamilies={IPv6,IPv4},\
         bindAddress=[::],ingress.enabled=true",
    );
    for name in ["arcpd", "arcpd-headless", "arcpd-admin", "arcpd-web"] {
        let spec = service(&all, name);
        assert_eq!(spec["ipFamilyPolicy"], "RequireDualStack", "{name}");
        assert_eq!(spec["ipFamilies"], json!(["IPv6", "IPv4"]), "{name}");
    }
}

#[test]
fn a_way_in_that_would_lead_nowhere_is_refused_in_words() {
    const GATEWAY: &str =
        "gateway.enabled=true,gateway.parentRefs[0].name=a,tls.enabled=true,tls.existingSecret=b";
    for (set, words) in [
        (
            "containerPorts.admin=7777",
            "containerPorts.grpc and containerPorts.admin are the same",
        ),
        (
            "service.nodePort=30000",
            "service.nodePort is for service.type NodePort or LoadBalancer",
        ),
        (
            "service.externalTrafficPolicy=Local",
            "service.externalTrafficPolicy is for service.type NodePort or LoadBalancer",
        ),
        // Was taken, and everybody was let in.
        (
            "service.type=NodePort,service.loadBalancerSourceRanges={10.0.0.0/8}",
            "it is NodePort: it would bound nobody",
        ),
        (
            "service.loadBalancerClass=a",
            "service.loadBalancerClass is for service.type LoadBalancer",
        ),
        (
            "service.ipFamilies={IPv4,IPv6},bindAddress=[::]",
            "set service.ipFamilyPolicy to PreferDualStack",
        ),
        (
            "service.ipFamilies={IPv6}",
            "where the process does not listen: set bindAddress",
        ),
        (
            "service.ipFamilyPolicy=PreferDualStack",
            "where the process does not listen: set bindAddress",
        ),
        (GATEWAY, "gateway.backendTLS.caCertificateRefs is empty"),
        // The schema's own words.
        ("containerPorts.grpc=443", "at '/containerPorts/grpc'"),
        ("service.ipFamilies={IPv5}", "at '/service/ipFamilies/0'"),
        (
            "service.externalTrafficPolicy=local",
            "at '/service/externalTrafficPolicy'",
        ),
        (
            "gateway.backendTLS.caCertificateRefs[0].kind=Secret",
            "at '/gateway/backendTLS/caCertificateRefs/0'",
        ),
    ] {
        let output = template(&newest(), &["--set", set]);
        assert!(!output.status.success(), "{set} was taken");
        let why = said(&output);
        assert!(why.contains(words), "{set}: {why}");
    }
}

/// A gateway spoke in the clear to pods that do not.
#[test]
fn a_gateway_speaks_tls_to_pods_that_serve_it() {
    const TLS: &str = "gateway.enabled=true,gateway.parentRefs[0].name=a,tls.enabled=true,\
                       tls.existingSecret=b,gateway.backendTLS.caCertificateRefs";
    let all = set(&format!("{TLS}[0].name=internal-ca"));
    let policy = &object(&all, "BackendTLSPolicy", "arcpd")["spec"];
    let routed = object(&all, "HTTPRoute", "arcpd-web")["spec"]["rules"].as_array();
    let routed = routed.unwrap().iter().map(|rule| &rule["backendRefs"][0]);
    let routed: Vec<_> = routed.map(|backend| backend["name"].clone()).collect();
    let targets = policy["targetRefs"].as_array().unwrap().iter();
    let targets: Vec<_> = targets.map(|target| target["name"].clone()).collect();
    assert_eq!(targets, routed);
    let trusted = json!([{ "group": "", "kind": "ConfigMap", "name": "internal-ca" }]);
    assert_eq!(policy["validation"]["caCertificateRefs"], trusted);
    // For "https" Envoy Gateway takes what ALPN gives it: HTTP/2, without an upgrade.
    let web = &service(&all, "arcpd-web")["ports"][0];
    assert_eq!(web["appProtocol"], "kubernetes.io/wss");
    // One of the names of the chart's own certificate.
    let hostname = "arcpd.agents.svc";
    assert_eq!(policy["validation"]["hostname"], hostname);
    let issued = set(&format!(
        "{TLS}[0].name=x,tls.existingSecret=,tls.certManager.enabled=true,tls.certManager.issuerRef.name=c"
    ));
    let names = &object(&issued, "Certificate", "arcpd")["spec"]["dnsNames"];
    assert!(
        names.as_array().unwrap().contains(&json!(hostname)),
        "{names}"
    );

    let own = set(&format!("{TLS}=null,gateway.backendTLS.enabled=false"));
    let clear = set("gateway.enabled=true,gateway.parentRefs[0].name=a");
    for all in [own, clear] {
        assert!(
            all.iter()
                .all(|object| object["kind"] != "BackendTLSPolicy")
        );
    }
}
