"""The tables: what becomes of each procedure, and what a read-only connection may call."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace

import pytest

from corral.daemon import handlers
from corral.daemon.dispatch import ROUTES
from corral.daemon.handlers.absent import EMPTY, EMPTY_OF_DOMAIN
from corral.daemon.handlers.unsupported import UNSUPPORTED
from corral.daemon.permissions import api_name, changes, readonly_check
from corral.errors import OperationDenied
from corral.protocol.codec import codec
from corral.protocol.procedures import all_procedures, procedure

handlers.load()

#: What a read-only connection may call, spelt out: everything else must be refused.
READ_ONLY = [
    "auth_list",
    "auth_polkit",
    "auth_sasl_init",
    "auth_sasl_start",
    "auth_sasl_step",
    "connect_open",
    "connect_close",
    "connect_get_type",
    "connect_get_version",
    "connect_get_lib_version",
    "connect_get_max_vcpus",
    "connect_get_capabilities",
    "connect_get_hostname",
    "connect_get_uri",
    "connect_get_sysinfo",
    "connect_is_secure",
    "connect_supports_feature",
    "connect_compare_cpu",
    "connect_baseline_cpu",
    "connect_get_cpu_model_names",
    "connect_get_all_domain_stats",
    "connect_get_storage_pool_capabilities",
    "connect_register_close_callback",
    "connect_unregister_close_callback",
    "connect_domain_event_register",
    "connect_domain_event_deregister",
    "connect_domain_event_register_any",
    "connect_domain_event_deregister_any",
    "connect_domain_event_callback_register_any",
    "connect_domain_event_callback_deregister_any",
    "connect_network_event_register_any",
    "connect_network_event_deregister_any",
    "connect_storage_pool_event_register_any",
    "connect_storage_pool_event_deregister_any",
    "connect_node_device_event_register_any",
    "connect_node_device_event_deregister_any",
    "connect_secret_event_register_any",
    "connect_secret_event_deregister_any",
    "node_get_info",
    "node_get_free_memory",
    "node_get_cells_free_memory",
    "node_get_security_model",
    "node_get_cpu_stats",
    "node_get_memory_stats",
    "node_get_memory_parameters",
    "node_get_cpu_map",
    "node_get_free_pages",
    "node_get_sev_info",
    "corral.host_report",
    "corral.logs",
    "corral.autoscale_show",
    "corral.autoscale_status",
    "corral.autoscale_watch",
]
READ_ONLY_OBJECTS = (
    "lookup_",
    "interface_addresses",
    "get_",
    "list_",
    "num_of",
    "is_",
    "has_",
    "stats",
    "snapshot_current",
    "snapshot_num",
)


def test_every_procedure_has_one_fate() -> None:
    unsupported = list(chain.from_iterable(UNSUPPORTED.values()))
    assert len(unsupported) == len(set(unsupported))
    served = {route.name for route in ROUTES}
    assert served.isdisjoint(unsupported)
    calls = {each.name for each in all_procedures() if each.msg is None}
    assert served | set(unsupported) == calls


def test_what_exists_encodes() -> None:
    for name, answer in {**EMPTY, **EMPTY_OF_DOMAIN}.items():
        codec(procedure(name).ret or "").encode(answer)


def test_streaming_handlers_are_those_of_streaming_procedures() -> None:
    for called, route in ROUTES.items():
        assert (route.result.name == "STREAM") == (called.stream is not None), called.name
        assert not (route.cached and route.asynchronous and route.on_domain), "a domain may change meanwhile"


def test_read_only_may_look_and_nothing_else() -> None:
    for called in all_procedures():
        if called.msg is not None or not changes(called):
            continue
        assert called.name not in READ_ONLY
    for called in all_procedures():
        if called.msg is None and not changes(called) and called.name not in READ_ONLY:
            assert any(word in called.name for word in READ_ONLY_OBJECTS), called.name


@pytest.mark.parametrize(
    "name",
    [
        "domain_create",
        "domain_create_xml",
        "domain_define_xml",
        "domain_destroy",
        "domain_undefine_flags",
        "domain_shutdown",
        "domain_set_autostart",
        "domain_set_metadata",
        "domain_rename",
        "domain_screenshot",
        "domain_open_console",
        "domain_open_channel",
        "domain_get_hostname",
        "domain_send_key",
        "domain_inject_nmi",
        "domain_set_scheduler_parameters",
        "storage_vol_download",
        "connect_get_domain_capabilities",
        "qemu.domain_monitor_command",
        "qemu.domain_agent_command",
        "domain_memory_peek",
        "qemu.connect_domain_monitor_event_register",
        "network_create",
        "connect_set_identity",
        "domain_migrate_perform3",
    ],
)
def test_read_only_may_not(name: str) -> None:
    assert changes(procedure(name))


def test_rights_that_depend_on_arguments() -> None:
    check = readonly_check(procedure("domain_get_xml_desc"))
    assert check is not None
    check(SimpleNamespace(flags=2))
    for flags in (1, 8, 9):
        with pytest.raises(OperationDenied, match="virDomainGetXMLDesc"):
            check(SimpleNamespace(flags=flags))
    check = readonly_check(procedure("domain_interface_addresses"))
    assert check is not None
    check(SimpleNamespace(source=0))
    with pytest.raises(OperationDenied):
        check(SimpleNamespace(source=1))
    assert readonly_check(procedure("domain_get_state")) is None


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("domain_create", "virDomainCreate"),
        ("domain_get_xml_desc", "virDomainGetXMLDesc"),
        ("domain_inject_nmi", "virDomainInjectNMI"),
        ("connect_list_all_domains", "virConnectListAllDomains"),
        ("domain_lookup_by_uuid", "virDomainLookupByUUID"),
        ("qemu.domain_monitor_command", "virDomainQemuMonitorCommand"),
        ("qemu.connect_domain_monitor_event_register", "virConnectDomainQemuMonitorEventRegister"),
        ("domain_fsfreeze", "virDomainFSFreeze"),
    ],
)
def test_names_of_functions_in_errors(name: str, function: str) -> None:
    assert api_name(name) == function
