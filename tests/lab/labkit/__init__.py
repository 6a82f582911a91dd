# SPDX-License-Identifier: GPL-2.0-or-later
"""Boot small real guests for tests, demos and people."""
