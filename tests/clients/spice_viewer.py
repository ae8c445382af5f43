"""A SPICE viewer of Debian's spice-gtk library; run by the system's Python, prints what it saw.

Usage: /usr/bin/python3 spice_viewer.py '{"uri": …, "password": …, "ca": …, "keys": [scancodes], "picture": …, "cd": …}'
One JSON object on standard output: how the connection went, which channels there are, and the screen's size. `picture`
is a file for the screen as a PPM, taken a second after the last key. `cd` is an ISO, which the library offers to the
guest as a drive of its own making over a channel for USB: "plugged" is printed when it is there, and it stays until
standard input ends. `agent` is {"offer": a text for the guest's clipboard, "file": a file to send}: both are tried once
the guest has an agent, then a size of the screen is asked for, and it stays until standard input ends. `sound` has it
listen until then: "listening" is printed when it does, and the loud samples and their pitch in Hz are told at the end.
"""

import array
import ctypes
import itertools
import json
import pathlib
import sys

import gi

gi.require_version("SpiceClientGLib", "2.0")
from gi.repository import Gio, GLib, GObject, SpiceClientGLib  # noqa: E402

library = ctypes.CDLL("libspice-client-glib-2.0.so.8")
address = ctypes.pythonapi.PyCapsule_GetPointer
address.restype, address.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
WAIT, PACE = 1000, 40  # milliseconds
DEADLINE = 60_000
LOUD = 1000
TEXT = 1  # VD_AGENT_CLIPBOARD_UTF8_TEXT
MONITORS, ON_DEMAND, NO_FILES = 1, 5, 13  # VD_AGENT_CAP_MONITORS_CONFIG, CLIPBOARD_BY_DEMAND, FILE_XFER_DISABLED


listen = GObject.Object.connect  # these classes have a `connect` of their own


class Primary(ctypes.Structure):
    """struct _SpiceDisplayPrimary of channel-display.h."""

    _fields_ = [
        ("format", ctypes.c_int),
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("stride", ctypes.c_int),
        ("shmid", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("marked", ctypes.c_int),
    ]


class Viewer:
    def __init__(self, wanted):
        self.wanted = wanted
        self.seen = {"events": [], "channels": []}
        self.loop = GLib.MainLoop()
        self.display = None
        self.inputs = None
        self.conversing = False
        self.samples = array.array("h")
        self.rate = 0
        self.session = SpiceClientGLib.Session()
        self.session.set_property("uri", wanted["uri"])
        if wanted.get("password") is not None:
            self.session.set_property("password", wanted["password"])
        if wanted.get("ca"):
            self.session.set_property("ca-file", wanted["ca"])
        listen(self.session, "channel-new", self.channel_new)
        self.manager = SpiceClientGLib.UsbDeviceManager.get(self.session) if wanted.get("cd") else None
        if self.manager is not None:
            listen(self.manager, "device-added", self.device_added)
            listen(self.manager, "device-error", lambda manager, device, error: self.end(f"USB: {error.message}"))
            self.manager.create_shared_cd_device(wanted["cd"])

    def run(self):
        GLib.timeout_add(DEADLINE, self.end, "time-out")
        if self.session.connect():
            self.loop.run()
        else:
            self.seen["events"].append("not connected")

    def end(self, why=None):
        if why:
            self.seen["events"].append(why)
        self.session.disconnect()
        self.loop.quit()
        return False

    def channel_new(self, session, channel):
        kind = SpiceClientGLib.Channel.type_to_string(channel.get_property("channel-type"))
        self.seen["channels"].append(kind)
        listen(channel, "channel-event", self.channel_event, kind)
        if kind == "display" and channel.get_property("channel-id") == 0:
            self.display = channel
            SpiceClientGLib.Channel.connect(channel)
        if kind == "playback" and self.wanted.get("sound"):
            listen(channel, "playback-start", self.start)
            listen(channel, "playback-data", self.hear)
            SpiceClientGLib.Channel.connect(channel)
        if kind == "main" and self.wanted.get("agent"):
            listen(channel, "notify::agent-connected", self.converse)
        if kind == "inputs":
            self.inputs = channel
            SpiceClientGLib.Channel.connect(channel)

    def device_added(self, manager, device):
        if manager.is_device_shared_cd(device):
            self.disc = device

    def plug(self):
        """Redirect the drive once there is a channel for it."""
        if not self.manager.can_redirect_device(self.disc):
            return True
        self.manager.connect_device_async(self.disc, None, self.plugged)
        return False

    def plugged(self, manager, result):
        manager.connect_device_finish(result)
        print("plugged", flush=True)
        GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IOCondition.HUP | GLib.IOCondition.IN, self.unplug)

    def unplug(self, stream, condition):
        self.manager.disconnect_device(self.disc)
        GLib.timeout_add(PACE, self.look)
        return False

    def converse(self, main, what):
        """Offer the clipboard and a file to the guest's agent."""
        if self.conversing or not main.get_property("agent-connected"):
            return
        self.conversing = True
        GLib.timeout_add(PACE, self.offer, main)
        listen(main, "main-clipboard-selection-request", self.asked)
        listen(main, "main-clipboard-selection-grab", lambda main, which, types, count: self.take(main, which))
        listen(main, "main-clipboard-selection", self.taken)

    def take(self, main, which):
        main.clipboard_selection_request(which, TEXT)
        return True

    def taken(self, main, which, kind, data, size):
        self.seen["clipboard"] = data.decode()
        print("taken", flush=True)

    def asked(self, main, which, kind):
        text = self.wanted["agent"]["offer"].encode()
        main.clipboard_selection_notify(which, TEXT, text)
        return True

    def offer(self, main):
        if not main.agent_test_capability(MONITORS):
            return True  # it has not yet said what it can do
        self.seen["copypaste"] = main.agent_test_capability(ON_DEMAND)
        self.seen["filetransfer"] = not main.agent_test_capability(NO_FILES)
        self.seen["file"] = "begun"
        if self.seen["copypaste"]:
            main.clipboard_selection_grab(0, [TEXT])
        file = Gio.File.new_for_path(self.wanted["agent"]["file"])
        main.file_copy_async([file], Gio.FileCopyFlags.NONE, None, None, None, self.sent)
        GLib.timeout_add(WAIT, self.resize, main)  # behind the file, whose sending begins in its own time
        GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, GLib.IOCondition.HUP | GLib.IOCondition.IN, self.part, main)
        return False

    def resize(self, main):
        main.update_display(0, 0, 0, 1024, 768, True)
        main.send_monitor_config()
        return False

    def sent(self, main, result):
        try:
            main.file_copy_finish(result)
            self.seen["file"] = "sent"
        except GLib.Error as error:
            self.seen["file"] = error.message

    def part(self, stream, condition, main):
        GLib.timeout_add(PACE, self.parted, main)
        return False

    def parted(self, main):
        if self.seen["file"] == "begun" and self.seen["filetransfer"]:
            return True
        self.seen["mouse"] = main.get_property("mouse-mode")
        self.end()
        return False

    def hear(self, channel, data, size):
        """Samples of 16 bits, of two channels."""
        left = array.array("h", ctypes.string_at(data, size))[::2]
        self.samples.extend(each for each in left if abs(each) > LOUD)

    def hush(self, stream, condition):
        rises = sum(before < 0 <= after for before, after in itertools.pairwise(self.samples))
        self.seen["loud"] = len(self.samples)
        self.seen["pitch"] = rises * self.rate / max(1, len(self.samples))
        self.end()
        return False

    def start(self, channel, kind, channels, rate):
        self.rate = rate

    def channel_event(self, channel, event, kind):
        name = event.value_nick
        if kind == "main":
            self.seen["events"].append(name)
            if name != "opened":
                error = channel.get_error()
                self.seen["error"] = error.message if error else None
                self.end()
            elif self.manager is not None:
                GLib.timeout_add(PACE, self.plug)
        elif name == "opened":
            if kind == "playback":
                print("listening", flush=True)
                watch = GLib.IOCondition.HUP | GLib.IOCondition.IN
                GLib.io_add_watch(sys.stdin, GLib.PRIORITY_DEFAULT, watch, self.hush)
            if kind == "inputs" and self.manager is None and not self.wanted.keys() & {"agent", "sound"}:
                self.keys = list(self.wanted.get("keys", []))
                GLib.timeout_add(PACE, self.type_key)
        elif name != "closed":
            self.seen["events"].append(f"{kind}: {name}")
            self.end()

    def type_key(self):
        """The next key; a PS/2 keyboard holds few that the guest has not taken yet."""
        if not self.keys:
            GLib.timeout_add(WAIT, self.look)
            return False
        code = self.keys.pop(0)
        self.inputs.key_press(code)
        self.inputs.key_release(code)
        return True

    def look(self):
        """Take the picture; again a little later while there is none."""
        primary = Primary()
        if self.display is None:
            return True
        pointer = ctypes.c_void_p(address(self.display.__gpointer__, None))
        if not library.spice_display_channel_get_primary(pointer, 0, ctypes.byref(primary)):
            return True
        self.seen["size"] = [primary.width, primary.height]
        if self.wanted.get("picture"):
            raw = ctypes.string_at(primary.data, primary.stride * primary.height)
            with pathlib.Path(self.wanted["picture"]).open("wb") as file:
                file.write(b"P6\n%d %d\n255\n" % (primary.width, primary.height))
                for row in range(primary.height):
                    line = raw[row * primary.stride : row * primary.stride + primary.width * 4]
                    rgb = bytearray(primary.width * 3)
                    rgb[0::3], rgb[1::3], rgb[2::3] = line[2::4], line[1::4], line[0::4]
                    file.write(rgb)
        self.end()
        return False


viewer = Viewer(json.loads(sys.argv[1]))
viewer.run()
print(json.dumps(viewer.seen))
