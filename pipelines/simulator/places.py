"""Cities: where people live, merchants stand and holidays go."""

import numpy as np

EARTH_RADIUS_KM = 6371.0

# Name, latitude, longitude, share of the population (relative). Coordinates: city centres, WGS 84.
CITIES: tuple[tuple[str, float, float, float], ...] = (
    ("New York", 40.7128, -74.0060, 8.3),
    ("Los Angeles", 34.0522, -118.2437, 3.9),
    ("Chicago", 41.8781, -87.6298, 2.7),
    ("Houston", 29.7604, -95.3698, 2.3),
    ("Phoenix", 33.4484, -112.0740, 1.6),
    ("Philadelphia", 39.9526, -75.1652, 1.6),
    ("San Antonio", 29.4241, -98.4936, 1.4),
    ("San Diego", 32.7157, -117.1611, 1.4),
    ("Dallas", 32.7767, -96.7970, 1.3),
    ("San Jose", 37.3382, -121.8863, 1.0),
    ("Austin", 30.2672, -97.7431, 1.0),
    ("Jacksonville", 30.3322, -81.6557, 0.9),
    ("Columbus", 39.9612, -82.9988, 0.9),
    ("Charlotte", 35.2271, -80.8431, 0.9),
    ("Indianapolis", 39.7684, -86.1581, 0.9),
    ("San Francisco", 37.7749, -122.4194, 0.9),
    ("Seattle", 47.6062, -122.3321, 0.8),
    ("Denver", 39.7392, -104.9903, 0.7),
    ("Washington", 38.9072, -77.0369, 0.7),
    ("Nashville", 36.1627, -86.7816, 0.7),
    ("Boston", 42.3601, -71.0589, 0.7),
    ("Detroit", 42.3314, -83.0458, 0.6),
    ("Portland", 45.5152, -122.6784, 0.6),
    ("Las Vegas", 36.1699, -115.1398, 0.6),
    ("Atlanta", 33.7490, -84.3880, 0.5),
    ("Miami", 25.7617, -80.1918, 0.4),
    ("Minneapolis", 44.9778, -93.2650, 0.4),
    ("New Orleans", 29.9511, -90.0715, 0.4),
    ("Toronto", 43.6532, -79.3832, 1.4),
    ("Vancouver", 49.2827, -123.1207, 0.5),
    ("Montréal", 45.5017, -73.5673, 0.9),
    ("Mexico City", 19.4326, -99.1332, 1.2),
    ("London", 51.5074, -0.1278, 1.5),
    ("Paris", 48.8566, 2.3522, 0.7),
    ("Madrid", 40.4168, -3.7038, 0.5),
    ("Rome", 41.9028, 12.4964, 0.4),
    ("Berlin", 52.5200, 13.4050, 0.5),
    ("São Paulo", -23.5505, -46.6333, 0.6),
    ("Tokyo", 35.6762, 139.6503, 0.6),
    ("Sydney", -33.8688, 151.2093, 0.4),
)

NAMES: list[str] = [city[0] for city in CITIES]
LATITUDE = np.array([city[1] for city in CITIES])
LONGITUDE = np.array([city[2] for city in CITIES])
POPULATION = np.array([city[3] for city in CITIES]) / sum(city[3] for city in CITIES)


def distances_km() -> np.ndarray:
    """float64[cities, cities]: great-circle distance between city centres."""
    latitude, longitude = np.radians(LATITUDE), np.radians(LONGITUDE)
    delta_latitude = latitude[:, None] - latitude[None, :]
    delta_longitude = longitude[:, None] - longitude[None, :]
    a = np.sin(delta_latitude / 2) ** 2
    a += np.cos(latitude)[:, None] * np.cos(latitude)[None, :] * np.sin(delta_longitude / 2) ** 2
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(a))
