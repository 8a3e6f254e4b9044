"""DIBmix against five other ways to cluster mixed-type rows: agreement with the true clusters, at equal restarts."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.experiment = "clustering"
    config.seeds = (0, 1, 2, 3, 4)

    config.data = ConfigDict(dict(
        simulations=(("continuous", 0.3, 0.6), ("categorical", 0.6, 0.3)),  # overlap of columns of each type
        rows=300,
        shares=(1.0, 1.0, 1.0),  # three clusters of equal size
        continuous=4,
        levels=(3, 4, 5, 3),  # of the four categorical columns
        tables=("wine", "breast_cancer"),  # a random half of their columns cut into four levels
        bins=4,
    ))
    config.protocol = ConfigDict(dict(restarts=50))  # of every arm

    config.arms = ConfigDict(dict(
        dib_mix=dict(name="dib_mix"),
        dib_mix_nominal=dict(name="dib_mix", ordered=False),  # told nothing of the order of levels, like the others
        k_means=dict(name="k_means"),
        k_prototypes=dict(name="k_prototypes"),
        gower_pam=dict(name="gower_pam"),
        famd_k_means=dict(name="famd_k_means"),
        kamila=dict(name="kamila"),
    ))
    config.claim = ConfigDict(dict(
        metric="ari", better="dib_mix", than="k_means", direction="higher",
        paper="28,800 simulated sets and ten real ones: better than KAMILA, K-Prototypes, FAMD + K-means and PAM",
    ))
    return config
