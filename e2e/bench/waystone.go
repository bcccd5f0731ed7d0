package main

func waystoneWaypoint(_ *env) system { return system{} }

func waystoneTunnels(_ *env) system { return system{} }
